// One row a mixer. Adding a mechanism: its file, its test, its row here.
#include "heed/registry.h"

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/names.h"
#include "mixers/rows.h"

namespace heed {

std::string to_string(Kind kind) {
  static const char* names[] = {"mixer", "operator",  "policy", "conversion", "adapter", "probe",   "intervention",
                                "task",  "benchmark", "model",  "block",      "reducer", "strategy"};
  return names[static_cast<int>(kind)];
}

nlohmann::json to_json(const RegistryRow& row) {
  auto patterns = nlohmann::json::array();
  if (row.patterns.noncausal_self) patterns.push_back("noncausal_self");
  if (row.patterns.causal_self) patterns.push_back("causal_self");
  if (row.patterns.noncausal_cross) patterns.push_back("noncausal_cross");
  if (row.patterns.causal_cross) patterns.push_back("causal_cross");
  auto params = nlohmann::json::array();
  for (const auto& p : row.parameters)
    params.push_back({{"name", p.name}, {"default", p.fallback}, {"meaning", p.meaning}});
  return {{"name", row.name},     {"kind", to_string(row.kind)},
          {"family", row.family}, {"paper", row.paper},
          {"year", row.year},     {"patterns", patterns},
          {"step", row.step},     {"core", row.core},
          {"grid", row.grid},     {"fixed_n", row.fixed_n},
          {"min_n", row.min_n},   {"training_free", row.training_free},
          {"exact", row.exact},   {"cost", row.cost},
          {"params", params}};
}

namespace {

/// `config` with the row's defaults for what it leaves open, so that two ways to write one configuration are equal.
nlohmann::json completed(const nlohmann::json& config, const std::vector<Parameter>& parameters) {
  auto whole = nlohmann::json::object();
  for (const auto& parameter : parameters) whole[parameter.name] = parameter.fallback;
  if (config.is_object())
    for (const auto& [key, value] : config.items())
      if (!value.is_null()) whole[key] = value;
  return whole;
}

/// The rows; recurrent mixers that they make know their configuration, and with it their states.
std::vector<RegistryRow> with_configurations(std::vector<RegistryRow> rows) {
  for (auto& row : rows)
    row.make = [make = row.make, parameters = row.parameters](const nlohmann::json& config) {
      auto mixer = make(config);
      if (auto* recurrent = dynamic_cast<RecurrentMixer*>(mixer.get()))
        recurrent->set_configuration(completed(config, parameters));
      return mixer;
    };
  return rows;
}

}  // namespace

std::span<const RegistryRow> mixer_rows() {
  static const std::vector<RegistryRow> rows = with_configurations({
      rows::dense(),
      rows::sliding_window(),
      rows::flash_attention(),
      rows::sigmoid_attention(),
      rows::generalized_neighborhood(),
      rows::fused_neighborhood(),
      rows::s2_attention(),
      rows::longformer(),
      rows::linformer(),
      rows::bigbird(),
      rows::quantizable_attention(),
      rows::selective_self_attention(),
      rows::shared_attention(),
      rows::factorization_attention(),
      rows::aggregated_attention(),
      rows::kolmogorov_arnold_attention(),
      rows::bilevel_routing_attention(),
      rows::conv_share_attention(),
      rows::masformer(),
      rows::hyper_attention(),
      rows::reformer(),
      rows::routing_attention(),
      rows::hip_attention(),
      rows::superlinear_attention(),
      rows::shifted_sparse_attention(),
      rows::landmark_attention(),
      rows::dynamic_mask_attention(),
      rows::core_context_attention(),
      rows::stochastic_subsampled_attention(),
      rows::dynamic_hierarchical_sparse_attention(),
      rows::sparsifiner(),
      rows::hard_attention(),
      rows::transformer_xl(),
      rows::deconstructed_attention(),
      rows::tensor_attention(),
      rows::context_mixing_conv(),
      rows::performer(),
      rows::multi_axis_attention(),
      rows::double_window_attention(),
      rows::halo_attention(),
      rows::dual_attention(),
      rows::convolution(),
      rows::large_kernel_attention(),
      rows::squeeze_excitation(),
      rows::coordinate_attention(),
      rows::efficient_local_attention(),
      rows::subspace_attention(),
      rows::spectral_gating(),
      rows::activator_glu(),
      rows::mlp_mixer(),
      rows::ninformer_gating(),
      rows::linear_attention(),
      rows::lightning_attention(),
      rows::norm_attention(),
      rows::diag_attention(),
      rows::gla(),
      rows::deltanet(),
      rows::based(),
      rows::base_conv(),
      rows::gru(),
      rows::lstm(),
      rows::kernelized_rpe(),
      rows::rala(),
      rows::mala(),
      rows::l2vit_lga(),
      rows::inline_attention(),
      rows::agent_attention(),
      rows::agent_sd(),
      rows::flow_attention(),
      rows::sea(),
      rows::mamba2(),
      rows::titans_memory(),
      rows::titans(),
      rows::combiner(),
      rows::transnormer_llm(),
      rows::tnl(),
      rows::rf_attention_layer(),
      rows::positional_attention(),
      rows::causal_grassmann(),
      rows::aaren(),
      rows::seqboat(),
      rows::s4(),
      rows::s4d(),
      rows::mamba(),
      rows::ss2d(),
      rows::lamamba(),
  });
  return rows;
}

std::shared_ptr<TokenMixer> make_mixer(std::string_view name, const nlohmann::json& config) {
  std::vector<std::string> known;
  for (const auto& row : mixer_rows()) {
    if (row.name == name) return row.make(config);
    known.push_back(row.name);
  }
  fail("unknown mixer {}: {}", name, suggest(name, known));
}

}  // namespace heed
