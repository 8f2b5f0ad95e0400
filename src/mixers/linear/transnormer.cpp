// The token mixer of TransNormerLLM: lightning attention between a norm and a gate, with a decay that fades with depth.
#include <cmath>

#include "heed/nn/feature_map.h"
#include "heed/nn/norm.h"
#include "heed/nn/positions.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct TransnormerConfig {
  bool rotates_first_layer = true;  ///< LRPE of layer 0
  bool activates_values = false;    ///< silu of v too
  std::string gate = "full";        ///< full: times x W_u; low_rank: times sigmoid(x G_1 G_2); none
  std::string decay = "alibi";      ///< alibi: slope_h (1 - l / (L - 1) + 1e-5); paper: (8 h / H)(1 - l / L); none
  std::string norm = "srms";
};

class Transnormer final : public linear::LinearAttention {
 public:
  Transnormer(const char* name, const HeadsConfig& config, TransnormerConfig own)
      : LinearAttention(name, config), own_(std::move(own)) {
    const bool layer = own_.norm == "layer";
    norm_ = register_module("norm", nn::Norm(layer ? formats::NormKind::layer : formats::NormKind::srms,
                                             config.values(), layer ? 1e-5 : 1e-6));
    if (own_.gate == "full") gate_proj_ = project("gate_proj", config.dim, config.values());
    if (own_.gate == "low_rank") {
      gate_down_ = project("gate_down", config.dim, config.head_dim);
      gate_proj_ = project("gate_proj", config.head_dim, config.values());
    }
    if (own_.rotates_first_layer) {
      const auto channel = torch::arange(config.keys(), torch::kFloat64);
      const auto theta = torch::exp(channel * (-2 * std::log(10000.0) / static_cast<double>(config.keys())));
      theta_ = register_parameter("theta", theta.to(torch::kFloat32).view({config.heads, 1, config.key_dim}));
    }
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    auto q = torch::silu(heads.q), k = torch::silu(heads.k);
    const auto v = own_.activates_values ? torch::silu(heads.v) : heads.v;
    if (theta_.defined() && call.input.layer.index == 0) {
      const auto positions = call.positions();
      q = turned(q, positions), k = turned(k, positions);
    }
    return call.linear(0, q, k, v, log_decay(call.input.layer));
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    joined = norm_(joined);
    if (own_.gate == "full") return joined * gate_proj_(call.x);
    if (own_.gate == "low_rank") return joined * torch::sigmoid(gate_proj_(gate_down_(call.x)));
    return joined;
  }

 private:
  /// [x cos(theta t), x sin(theta t)], whose products depend on t - s alone. Angles in float32 at least.
  Tensor turned(const Tensor& x, const Tensor& positions) const {
    const auto wide = x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    const auto at = positions.to(wide).unsqueeze(-1);  // [N, 1] or [B, N, 1]
    const auto angles = theta_.to(wide) * (at.dim() == 3 ? at.unsqueeze(1) : at);
    return torch::cat({x * angles.cos().to(x.scalar_type()), x * angles.sin().to(x.scalar_type())}, -1);
  }

  /// [H]; the last layer forgets next to nothing.
  std::optional<Tensor> log_decay(const LayerContext& layer) const {
    if (own_.decay == "none") return std::nullopt;
    const double index = double(layer.index), count = double(layer.count);
    if (own_.decay == "alibi") {
      const double depth = layer.count > 1 ? index / (count - 1) : 0;
      return nn::alibi_slopes(config_.heads) * -(1 - depth + 1e-5);
    }
    return torch::arange(1, config_.heads + 1, torch::kFloat32) * (-8.0 / double(config_.heads) * (1 - index / count));
  }

  TransnormerConfig own_;
  nn::Norm norm_{nullptr};
  torch::nn::Linear gate_down_{nullptr}, gate_proj_{nullptr};
  Tensor theta_;  // [H, 1, key_dim]
};

RegistryRow transnormer_row(const char* name, const char* paper, int year, const TransnormerConfig& defaults) {
  return {.name = name,
          .kind = Kind::model,
          .family = "linear_and_recurrent",
          .paper = paper,
          .year = year,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = linear::heads_parameters(
              {{"lrpe", defaults.rotates_first_layer, "the first layer turns q and k by learned angles"},
               {"silu_values", defaults.activates_values, "silu of v, as of q and k"},
               {"gate", defaults.gate, "of the normed output: full (x W), low_rank (sigmoid(x W W')) or none"},
               {"decay", defaults.decay, "alibi (the released code), paper ((8 h / H)(1 - l / L)) or none"},
               {"norm", defaults.norm, "srms (no parameters) or layer"}}),
          .small = {{"dim", 24}, {"heads", 3}},
          .make = linear::heads_maker(name, [name, defaults](const HeadsConfig& config, ConfigReader& reader) {
            require(config.causal, "{}: causal = false is not accepted: decays have a direction", name);
            auto own = defaults;
            own.rotates_first_layer = reader.get("lrpe", own.rotates_first_layer);
            own.activates_values = reader.get("silu_values", own.activates_values);
            own.gate = reader.choice("gate", own.gate, {"full", "low_rank", "none"});
            own.decay = reader.choice("decay", own.decay, {"alibi", "paper", "none"});
            own.norm = reader.choice("norm", own.norm, {"srms", "layer"});
            return std::make_shared<Transnormer>(name, config, own);
          })};
}

}  // namespace

RegistryRow rows::tnl() {
  TransnormerConfig defaults;
  defaults.rotates_first_layer = false;
  defaults.activates_values = true;
  defaults.gate = "low_rank";
  return transnormer_row("tnl", "Various Lengths, Constant Speed (arXiv 2405.17381)", 2024, defaults);
}

RegistryRow rows::transnormer_llm() {
  return transnormer_row("transnormer_llm", "TransNormerLLM (arXiv 2307.14995)", 2023, {});
}

}  // namespace heed
