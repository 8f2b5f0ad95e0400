// A learned inverse temperature per token and position on queries and values (arXiv 2411.12892).
// Not verified: the exact form of the token term; the weight-shared form tanh(w . GELU(q)) is built.
#include <cmath>

#include "heed/nn/gelu.h"
#include "mixers/rows.h"

namespace heed {
namespace {

struct SelectiveConfig {
  bool queries = true, values = true;
  std::string position = "sigmoid";  ///< sigmoid: 1 + sigmoid(a) ln n; exp: 1 + exp(-exp(b)) ln n; none: 1
};

class SelectiveSelfAttention final : public AttentionMixer {
 public:
  SelectiveSelfAttention(const AttentionConfig& c, const SelectiveConfig& selective)
      : AttentionMixer("selective_self_attention", c), selective_(selective) {
    if (selective_.queries) {
      q_token_ = register_parameter("q_token", torch::zeros({c.heads, 1, c.head_dim}));
      if (selective_.position != "none")
        q_position_ = register_parameter("q_position",
                                         torch::full({c.heads, 1, 1}, selective_.position == "sigmoid" ? -5.0 : 1.5));
    }
    if (selective_.values) v_token_ = register_parameter("v_token", torch::zeros({c.kv_heads, 1, c.head_dim}));
  }

 protected:
  void before_core(const MixerInput& in, const KvState* state, torch::Tensor& q, torch::Tensor& k,
                   torch::Tensor& v) override {
    if (selective_.queries) q = q * (token_term(q, q_token_) + position_term(in, state, k));
    if (selective_.values) v = v * (token_term(v, v_token_) + 1);
  }

 private:
  /// tanh(w . GELU(x)), [B, H, N, 1].
  static torch::Tensor token_term(const torch::Tensor& x, const torch::Tensor& weight) {
    return torch::tanh((nn::gelu(x) * weight).sum(-1, true));
  }

  torch::Tensor position_term(const MixerInput& in, const KvState* state, const torch::Tensor& k) const {
    if (!q_position_.defined()) return torch::ones({1});
    const auto rate =
        selective_.position == "sigmoid" ? torch::sigmoid(q_position_) : torch::exp(-torch::exp(q_position_));
    return 1 + rate * visible_keys(in, state, k).clamp_min(1).log().to(k.scalar_type());
  }

  /// Number of keys each query sees, [B or 1, 1, N, 1]: padding is not counted, packed sequences are counted apart.
  torch::Tensor visible_keys(const MixerInput& in, const KvState* state, const torch::Tensor& k) const {
    const int64_t n = in.x.size(1), m = k.size(2), past = state ? state->tokens : 0;
    if (in.cu_seqlens) {
      auto count = torch::empty({n}, torch::kFloat64);
      const auto cu = in.cu_seqlens->to(torch::kInt64).contiguous();
      for (int64_t s = 0; s + 1 < cu.numel(); ++s) {
        const int64_t begin = cu[s].item<int64_t>(), end = cu[s + 1].item<int64_t>();
        auto part = count.slice(0, begin, end);
        if (config_.causal)
          part.copy_(torch::arange(1, end - begin + 1));
        else
          part.fill_(double(end - begin));
      }
      return count.view({1, 1, n, 1});
    }
    auto real =
        in.key_padding ? in.key_padding->logical_not().to(torch::kFloat64) : torch::ones({1, m}, torch::kFloat64);
    double before = double(past);
    torch::Tensor earlier = torch::full({1, 1}, before, torch::kFloat64);
    if (state && state->padding.defined()) earlier = state->padding.logical_not().sum(1, true).to(torch::kFloat64);
    if (!config_.causal) return (real.sum(1, true) + earlier).view({-1, 1, 1, 1});
    // Bottom-right: query i sees the keys up to i + m - n.
    const auto counts = real.cumsum(1).slice(1, std::max<int64_t>(m - n, 0));
    return (torch::constant_pad_nd(counts, {std::max<int64_t>(n - m, 0), 0}) + earlier).view({-1, 1, n, 1});
  }

  SelectiveConfig selective_;
  torch::Tensor q_token_, q_position_, v_token_;
};

}  // namespace

RegistryRow rows::selective_self_attention() {
  return {.name = "selective_self_attention",
          .family = "kv_cache_and_long_context",
          .paper = "Selective Attention: Enhancing Transformer through Principled Context Control (arXiv 2411.12892)",
          .year = 2024,
          .patterns = {true, true, true, true},
          .step = true,
          .cost = "O(N^2)",
          .parameters = attention_parameters({{"queries", true, "temperature on queries"},
                                              {"values", true, "temperature on values"},
                                              {"position", "sigmoid", "growth with ln n: sigmoid, exp or none"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}},
          .make = attention_maker("selective_self_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            SelectiveConfig selective;
            selective.queries = reader.get("queries", true);
            selective.values = reader.get("values", true);
            selective.position = reader.choice("position", "sigmoid", {"sigmoid", "exp", "none"});
            return std::make_shared<SelectiveSelfAttention>(config, selective);
          })};
}

}  // namespace heed
