// The delta rule: what the state returns for a key is removed before the key's value is written.
#include "heed/nn/norm.h"
#include "mixers/linear/heads_config.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::HeadsConfig;
using torch::Tensor;

struct DeltaNetConfig {
  int64_t conv = 4;
  bool negative_eigenvalues = false, decay = false, gate = false;
};

class DeltaNet final : public RecurrentMixer {
 public:
  DeltaNet(const HeadsConfig& config, const DeltaNetConfig& own)
      : RecurrentMixer("deltanet", config.dim, config.causal), config_(config), own_(own) {
    q_proj_ = project("q_proj", config.dim, config.keys());
    k_proj_ = project("k_proj", config.dim, config.keys());
    v_proj_ = project("v_proj", config.dim, config.values());
    o_proj_ = project("o_proj", config.values(), config.dim);
    beta_proj_ = project("beta_proj", config.dim, config.heads);
    if (own.decay) decay_proj_ = project("decay_proj", config.dim, config.heads, true);
    if (own.gate) gate_proj_ = project("gate_proj", config.dim, config.values());
    q_conv_ = register_module("q_conv", nn::ShortConv(config.keys(), own.conv));
    k_conv_ = register_module("k_conv", nn::ShortConv(config.keys(), own.conv));
    v_conv_ = register_module("v_conv", nn::ShortConv(config.values(), own.conv));
    norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, config.head_dim, 1e-5));
  }

  Tensor mix(const CoreInput& in) override {
    const auto unit = [](const Tensor& t) { return normalised(t); };
    auto options = scaled(in.q.size(3));
    options.cu_seqlens = in.cu_seqlens;
    auto beta = torch::ones({in.q.size(0), in.q.size(1), in.q.size(2)}, in.q.options());
    if (in.key_padding) beta = beta.masked_fill(in.key_padding->unsqueeze(1), 0);
    return ops::delta_chunk(unit(in.q), unit(in.k), in.v, beta, std::nullopt, std::nullopt, options).out;
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const auto& x = call.x;
    const auto heads = [&](const Tensor& t) { return split_heads(t, config_.heads); };
    const auto q = normalised(heads(call.conv(1, q_conv_, q_proj_(x)))),
               k = normalised(heads(call.conv(2, k_conv_, k_proj_(x)))), v = heads(call.conv(3, v_conv_, v_proj_(x)));
    auto beta = torch::sigmoid(beta_proj_(x)).transpose(1, 2);
    if (own_.negative_eigenvalues) beta = 2 * beta;
    std::optional<Tensor> decay;
    if (own_.decay) {
      auto logits = decay_proj_(x);
      if (logits.scalar_type() != torch::kFloat64) logits = logits.to(torch::kFloat32);
      decay = torch::log_sigmoid(logits).transpose(1, 2);
    }
    auto out = join_heads(norm_(call.delta(0, q, k, v, beta, decay, scaled(config_.key_dim))));
    if (own_.gate) out = out * torch::silu(gate_proj_(x));
    return o_proj_(out);
  }

 private:
  /// Of length 1 per head; a zero vector stays one.
  static Tensor normalised(const Tensor& t) { return t * torch::rsqrt(t.square().sum(-1, true) + 1e-6); }

  static ops::DeltaChunkOptions scaled(int64_t key_dim) {
    ops::DeltaChunkOptions options;
    options.scale = 1 / std::sqrt(static_cast<double>(key_dim));
    return options;
  }

  HeadsConfig config_;
  DeltaNetConfig own_;
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr}, beta_proj_{nullptr},
      decay_proj_{nullptr}, gate_proj_{nullptr};
  nn::ShortConv q_conv_{nullptr}, k_conv_{nullptr}, v_conv_{nullptr};
  nn::Norm norm_{nullptr};
};

}  // namespace

RegistryRow rows::deltanet() {
  return {.name = "deltanet",
          .family = "linear_and_recurrent",
          .paper = "Parallelizing Linear Transformers with the Delta Rule over Sequence Length (arXiv 2406.06484)",
          .year = 2024,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N)",
          .parameters = linear::heads_parameters(
              {{"conv", 4, "tokens of the short convolutions of q, k and v"},
               {"negative_eigenvalues", false, "beta reaches up to 2, so that the state may change sign along a key"},
               {"decay", false, "the state also forgets, by a gate per head (Gated DeltaNet, arXiv 2412.06464)"},
               {"gate", false, "the normed output is multiplied by silu of a projection of x"}}),
          .small = {{"dim", 24}, {"heads", 2}, {"conv", 3}, {"decay", true}, {"gate", true}},
          .make = linear::heads_maker("deltanet", [](const HeadsConfig& config, ConfigReader& reader) {
            require(config.causal, "deltanet: causal = false is not accepted: the rule has a direction");
            DeltaNetConfig own;
            own.conv = reader.integer("conv", own.conv, 1, 64);
            own.negative_eigenvalues = reader.get("negative_eigenvalues", false);
            own.decay = reader.get("decay", false);
            own.gate = reader.get("gate", false);
            return std::make_shared<DeltaNet>(config, own);
          })};
}

}  // namespace heed
