#include "heed/checkpoint/run.h"

#include <algorithm>

#include "checkpoint/run_inputs.h"
#include "heed/attention.h"
#include "heed/kernels/mask_text.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/config.h"
#include "heed/nn/sizes.h"
#include "heed/ops/dispatch.h"
#include "heed/registry.h"

namespace heed::checkpoint {
namespace {

using torch::Tensor;

NormalizerKind normalizer_of(const std::string& name) {
  return name == "sigmoid"           ? NormalizerKind::sigmoid
         : name == "clipped_softmax" ? NormalizerKind::clipped_softmax
                                     : NormalizerKind::softmax;
}

Mask read_mask(ConfigReader& reader, bool causal_default) {
  const auto text = reader.get<std::string>("mask", "");
  const bool causal = reader.get("causal", causal_default && text.empty());
  const auto window = reader.integer("window", 0, 0), sinks = reader.integer("sinks", 0, 0);
  Mask mask = kernels::parse_mask(text);
  require(sinks == 0 || window > 0, "{}: sinks = {} keep tokens visible beside a window: give window", reader.owner(),
          sinks);
  if (window > 0) mask = mask & (sinks > 0 ? Window{window} | SinkTokens{sinks} : Mask(Window{window}));
  return causal ? mask & Causal{} : mask;
}

AttentionOptions read_options(ConfigReader& reader, Inputs& inputs, const RunRequest& request, bool causal_default) {
  AttentionOptions o;
  o.mask = read_mask(reader, causal_default);
  o.scale = reader.get("scale", 0.0);
  o.softcap = reader.get("softcap", 0.0);
  o.normalizer = normalizer_of(reader.choice("normalizer", "softmax", {"softmax", "sigmoid", "clipped_softmax"}));
  o.gamma = reader.get("gamma", 0.0);
  o.zeta = reader.get("zeta", 1.0);
  o.gamma_per_key = reader.get("gamma_per_key", false);
  o.dropout = reader.get("dropout", 0.0);
  o.seed = request.seed;
  const auto bias = reader.get("sigmoid_bias", std::nan(""));
  o.sigmoid_bias = inputs.optional("sigmoid_bias");
  if (!std::isnan(bias)) o.sigmoid_bias = torch::full({1}, bias, torch::kFloat64);
  o.bias = inputs.optional("bias");
  o.alibi_slopes = inputs.optional("alibi_slopes");
  o.temperature = inputs.optional("temperature");
  o.multiplier = inputs.optional("multiplier");
  o.sink_logit = inputs.optional("sink_logit");
  o.q_lengths = inputs.optional("q_lengths");
  o.k_lengths = inputs.optional("k_lengths");
  o.cu_q = inputs.optional("cu_q");
  o.cu_k = inputs.optional("cu_k");
  o.prefix_lengths = inputs.optional("prefix_lengths");
  o.q_documents = inputs.optional("q_documents");
  o.k_documents = inputs.optional("k_documents");
  o.q_to_k_head = inputs.optional("q_to_k_head");
  o.q_to_v_head = inputs.optional("q_to_v_head");
  return o;
}

/// block_mask bool [H, query blocks, key blocks] as lists.
BlockListTensors lists_of(const Tensor& block_mask, int64_t query_block, int64_t key_block) {
  require(block_mask.dim() == 3, "block_mask has {} dimensions: [heads, query blocks, key blocks] is accepted",
          block_mask.dim());
  const auto seen = block_mask.to(torch::kBool).contiguous();
  const auto counts = seen.sum(2).flatten();
  const auto offsets = torch::cat({torch::zeros({1}, torch::kInt64), counts.cumsum(0)});
  return {offsets, seen.nonzero().select(1, 2).to(torch::kInt32).contiguous(), 1, seen.size(0), query_block, key_block};
}

TensorMap with_lse(const Tensor& out, const Tensor& lse) {
  return lse.defined() ? TensorMap{{"out", out}, {"lse", lse}} : TensorMap{{"out", out}};
}

TensorMap run_operator(const std::string& name, const RunRequest& request, Inputs& inputs) {
  if (auto outputs = run_recurrence(name, request, inputs)) return *outputs;
  if (auto outputs = run_neighborhood(name, request, inputs)) return *outputs;
  const auto q = inputs.required("q"), k = inputs.required("k"), v = inputs.required("v");
  ConfigReader reader("op:" + name, request.settings);
  const bool decoding = name == "decode" || name == "lean_attention";
  auto options = read_options(reader, inputs, request, decoding);
  if (name == "block_sparse") {
    const auto query_block = reader.integer("query_block", 64, 1), key_block = reader.integer("key_block", 64, 1);
    options.blocks = lists_of(inputs.required("block_mask"), query_block, key_block);
    const int64_t rows = (q.size(2) + query_block - 1) / query_block, columns = (k.size(2) + key_block - 1) / key_block;
    const auto mask = inputs.required("block_mask");
    require((mask.size(0) == 1 || mask.size(0) == q.size(1)) && mask.size(1) == rows && mask.size(2) == columns,
            "block_mask does not fit: [1 or {}, {}, {}] is accepted", q.size(1), rows, columns);
  }
  reader.finish();
  inputs.finish();
  if (!decoding) {
    const auto result = attention_with_lse(q, k, v, options);
    return with_lse(result.out, result.lse);
  }
  require(!request.grad, "op:{} has no gradient: it serves generation; op:flash has one", name);
  ops::FlashCall call(q, k, v, options);
  call.allocate_outputs();
  ops::run_decode(call);
  return with_lse(call.out, call.lse);
}

std::shared_ptr<TokenMixer> prepared_mixer(const std::string& name, nlohmann::json config, const RunRequest& request,
                                           torch::ScalarType dtype) {
  torch::manual_seed(request.seed);
  auto mixer = make_mixer(name, config);
  mixer->to(dtype);
  mixer->eval();
  if (!request.weights.empty()) {
    const auto file = formats::SafetensorsFile::open(request.weights);
    torch::NoGradGuard no_grad;
    size_t used = 0;
    for (auto& entry : mixer->named_parameters()) {
      const auto weight = read_tensor(file, entry.key());
      require(weight.sizes() == entry.value().sizes(), "{}: tensor {} does not have the shape that {} asks for",
              request.weights.string(), entry.key(), name);
      entry.value().copy_(weight);
      ++used;
    }
    require(used == file.tensors().size(), "{}: {} tensors, of which {} takes {}", request.weights.string(),
            file.tensors().size(), name, used);
  }
  return mixer;
}

const RegistryRow& mixer_row(const std::string& name) {
  const auto& rows = mixer_rows();
  return *std::find_if(rows.begin(), rows.end(), [&](const RegistryRow& row) { return row.name == name; });
}

/// Sizes of the tokens' grid, of mechanisms that need one: the tensor grid, or of `settings`, which lose it, grid=5x7.
std::optional<Grid> grid_of(Inputs& inputs, const std::string& name, nlohmann::json& settings) {
  const auto sizes = inputs.optional("grid");
  if (mixer_row(name).grid && settings.contains("grid")) {
    require(!sizes, "{}: a tensor grid and the parameter grid = {}: one of them is accepted", name,
            settings["grid"].dump());
    ConfigReader reader(name, settings);
    const auto told = nn::read_sizes(reader, "grid", {});
    settings.erase("grid");
    return Grid{told};
  }
  if (!sizes) return std::nullopt;
  require(sizes->dim() == 1 && !torch::isFloatingType(sizes->scalar_type()),
          "grid: integers, cells an axis, are accepted");
  const auto cells = sizes->to(torch::kInt64).contiguous();
  return Grid{{cells.data_ptr<int64_t>(), cells.data_ptr<int64_t>() + cells.numel()}};
}

/// `settings`, and of the sizes that q, k and v tell those that the mixer has a key for.
nlohmann::json core_settings(const std::string& name, nlohmann::json settings, const CoreInput& core) {
  const auto& parameters = mixer_row(name).parameters;
  const auto has = [&](const std::string& key) {
    return std::any_of(parameters.begin(), parameters.end(),
                       [&](const Parameter& parameter) { return parameter.name == key; });
  };
  // Where keys have a size of their own, head_dim is that of the values.
  const int64_t size = core.q.size(3), head_size = has("key_dim") ? core.v.size(3) : size;
  for (const auto& [key, value] : {std::pair{"dim", core.q.size(1) * head_size},
                                   {"heads", core.q.size(1)},
                                   {"kv_heads", core.k.size(1)},
                                   {"head_dim", head_size},
                                   {"key_dim", size}})
    if (has(key) && !settings.contains(key)) settings[key] = value;
  return settings;
}

TensorMap run_core(const std::string& name, const RunRequest& request, Inputs& inputs) {
  CoreInput core{inputs.required("q"), inputs.required("k"), inputs.required("v")};
  core.key_padding = inputs.optional("key_padding");
  core.cu_seqlens = inputs.optional("cu_seqlens");
  core.seed = request.seed;
  auto settings = request.settings;
  core.grid = grid_of(inputs, name, settings);
  inputs.finish();
  require(core.q.dim() == 4 && core.k.dim() == 4 && core.v.dim() == 4,
          "core:{}: q, k and v of [batch, heads, tokens, head size] are accepted", name);
  return {{"out", prepared_mixer(name, core_settings(name, settings, core), request, core.q.scalar_type())->mix(core)}};
}

TensorMap run_mixer(const RunRequest& request, Inputs& inputs, std::shared_ptr<TokenMixer>& mixer) {
  MixerInput input;
  input.x = inputs.required("x");
  input.memory = inputs.optional("memory");
  input.key_padding = inputs.optional("key_padding");
  input.cu_seqlens = inputs.optional("cu_seqlens");
  input.positions = inputs.optional("positions");
  input.seed = request.seed;
  auto config = request.settings;
  input.grid = grid_of(inputs, request.name, config);
  inputs.finish();
  require(input.x.dim() == 3, "{}: x has {} dimensions: [batch, tokens, channels] is accepted", request.name,
          input.x.dim());
  if (!config.contains("dim")) config["dim"] = input.x.size(2);
  mixer = prepared_mixer(request.name, config, request, input.x.scalar_type());
  return {{"out", mixer->forward(input)}};
}

}  // namespace

void run(const RunRequest& request) {
  std::vector<std::string> known;
  for (const auto& row : operator_rows()) known.push_back("op:" + row.name);
  for (const auto& row : mixer_rows()) known.push_back(row.name);
  for (const auto& row : mixer_rows())
    if (row.core) known.push_back("core:" + row.name);
  require(std::find(known.begin(), known.end(), request.name) != known.end(), "unknown name {}: {}", request.name,
          suggest(request.name, known));

  Inputs inputs(request);
  const torch::AutoGradMode grad_mode(request.grad);
  std::shared_ptr<TokenMixer> mixer;
  auto outputs = request.name.starts_with("op:")     ? run_operator(request.name.substr(3), request, inputs)
                 : request.name.starts_with("core:") ? run_core(request.name.substr(5), request, inputs)
                                                     : run_mixer(request, inputs, mixer);
  if (request.grad) {
    const auto found = inputs.tensors().find("grad");
    require(found != inputs.tensors().end(), "{}: tensor grad is missing: --grad takes it, in the shape of out",
            request.in.string());
    const auto out = outputs.at("out");
    require(found->second.sizes() == out.sizes(), "{}: grad does not have the shape of out", request.in.string());
    out.backward(found->second.to(out.scalar_type()));
    for (const auto& [name, tensor] : inputs.tensors())
      if (tensor.grad().defined()) outputs["d_" + name] = tensor.grad();
    if (mixer)
      for (const auto& entry : mixer->named_parameters())
        if (entry.value().grad().defined()) outputs["d_" + entry.key()] = entry.value().grad();
  }
  if (!request.save_weights.empty()) {
    require(mixer != nullptr, "--save-weights: {} has no weights", request.name);
    TensorMap weights;
    for (const auto& entry : mixer->named_parameters()) weights[entry.key()] = entry.value();
    save_tensors(request.save_weights, weights);
  }
  save_tensors(request.out, outputs);
}

}  // namespace heed::checkpoint
