// Two ways for a head to output nothing (arXiv 2306.12929): a softmax that is stretched and clipped, or a gate on the
// head.
#include <cmath>

#include "heed/error.h"
#include "mixers/rows.h"

namespace heed {
namespace {

struct QuantizableConfig {
  std::string method = "clipped";  ///< clipped, gated
  double alpha = 12;               ///< gamma = -alpha / length
  std::string length = "longest";  ///< longest: max_length, as in the paper; row: the keys that the row sees
  double zeta = 1;
  std::string gate = "linear";  ///< linear: from the head's slice of x; mlp: the same, one hidden layer; all: from x,
                                ///< one linear map for all heads
  double initial_gate = 0.25;   ///< sigmoid(bias) at the start
};

/// One logit a token and head from the layer's input.
class HeadGateImpl : public torch::nn::Module {
 public:
  HeadGateImpl(const AttentionConfig& c, const QuantizableConfig& q) : heads_(c.heads), kind_(q.gate) {
    torch::NoGradGuard no_grad;
    const double bias = std::log(q.initial_gate / (1 - q.initial_gate));
    if (kind_ == "all") {
      all_ = register_module("all", torch::nn::Linear(c.dim, c.heads));
      all_->bias.fill_(bias);
      return;
    }
    const int64_t slice = c.dim / c.heads, width = kind_ == "mlp" ? std::max<int64_t>(1, slice / 4) : slice;
    const auto uniform = [](std::vector<int64_t> size, int64_t fan_in) {
      return (torch::rand(size) * 2 - 1) / std::sqrt(double(fan_in));
    };
    if (kind_ == "mlp") {
      hidden_ = register_parameter("hidden", uniform({c.heads, slice, width}, slice));
      hidden_bias_ = register_parameter("hidden_bias", uniform({c.heads, width}, slice));
    }
    weight_ = register_parameter("weight", uniform({c.heads, width}, width));
    bias_ = register_parameter("bias", torch::full({c.heads}, bias));
  }

  /// x [B, N, C] -> gates [B, H, N, 1] in (0, 1).
  torch::Tensor forward(const torch::Tensor& x) {
    if (all_) return torch::sigmoid(all_(x)).transpose(1, 2).unsqueeze(-1);
    auto slices = x.unflatten(2, {heads_, -1});  // [B, N, H, c]
    if (hidden_.defined()) slices = torch::relu(torch::einsum("bnhc,hcw->bnhw", {slices, hidden_}) + hidden_bias_);
    return torch::sigmoid((slices * weight_).sum(-1) + bias_).transpose(1, 2).unsqueeze(-1);
  }

 private:
  int64_t heads_;
  std::string kind_;
  torch::nn::Linear all_{nullptr};
  torch::Tensor hidden_, hidden_bias_, weight_, bias_;
};
TORCH_MODULE(HeadGate);

class QuantizableAttention final : public AttentionMixer {
 public:
  QuantizableAttention(const AttentionConfig& config, const QuantizableConfig& quantizable)
      : AttentionMixer("quantizable_attention", config), quantizable_(quantizable) {
    if (quantizable_.method == "gated") gate_ = register_module("gate", HeadGate(config, quantizable_));
  }

 protected:
  void customize(AttentionOptions& options, const CoreInput&) override {
    if (quantizable_.method != "clipped") return;
    options.normalizer = NormalizerKind::clipped_softmax;
    options.gamma_per_key = quantizable_.length == "row";
    options.gamma = -quantizable_.alpha / (options.gamma_per_key ? 1.0 : double(config_.max_length));
    options.zeta = quantizable_.zeta;
  }

  torch::Tensor after_core(const MixerInput& input, torch::Tensor heads) override {
    return gate_ ? heads * gate_(input.x) : heads;
  }

 private:
  QuantizableConfig quantizable_;
  HeadGate gate_{nullptr};
};

}  // namespace

RegistryRow rows::quantizable_attention() {
  return {
      .name = "quantizable_attention",
      .family = "kv_cache_and_long_context",
      .paper = "Quantizable Transformers: Removing Outliers by Helping Attention Heads Do Nothing (arXiv 2306.12929)",
      .year = 2023,
      .patterns = {true, true, true, true},
      .step = true,
      .core = true,
      .cost = "O(N^2)",
      .parameters = attention_parameters(
          {{"method", "clipped", "clipped: clip((zeta - gamma) p + gamma, 0, 1); gated: sigmoid gate on each head"},
           {"alpha", 12.0, "gamma = -alpha / length"},
           {"length", "longest",
            "longest: max_length; row: the keys that the row sees, which differ under a causal mask"},
           {"zeta", 1.0, "1 or more"},
           {"gate", "linear", "linear or mlp on the head's slice of x; all: one linear map of x for all heads"},
           {"initial_gate", 0.25, "value of the gates at the start"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"max_length", 64}, {"alpha", 2.0}},
      .make = attention_maker("quantizable_attention", [](const AttentionConfig& config, ConfigReader& reader) {
        QuantizableConfig q;
        q.method = reader.choice("method", q.method, {"clipped", "gated"});
        q.alpha = reader.get("alpha", q.alpha);
        q.length = reader.choice("length", q.length, {"longest", "row"});
        q.zeta = reader.get("zeta", q.zeta);
        q.gate = reader.choice("gate", q.gate, {"linear", "mlp", "all"});
        q.initial_gate = reader.get("initial_gate", q.initial_gate);
        require(q.alpha >= 0, "quantizable_attention: alpha = {}: 0 or more is accepted", q.alpha);
        require(q.zeta >= 1, "quantizable_attention: zeta = {}: 1 or more is accepted", q.zeta);
        require(q.initial_gate > 0 && q.initial_gate < 1,
                "quantizable_attention: initial_gate = {}: between 0 and 1 is accepted", q.initial_gate);
        require(q.method != "gated" || q.gate == "all" || config.dim % config.heads == 0,
                "quantizable_attention: dim = {} has no slices for {} heads; gate = all is accepted", config.dim,
                config.heads);
        return std::make_shared<QuantizableAttention>(config, q);
      })};
}

}  // namespace heed
