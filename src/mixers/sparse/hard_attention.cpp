// Softmax over the keys of the largest weights alone: the hard attention of AxFormer (arXiv 2010.03688).
#include <cmath>

#include "heed/error.h"
#include "heed/nn/row_attention.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct HardConfig {
  double share = 0.25, ratio = 0;
};

class HardAttention final : public sparse::SparseMixer {
 public:
  HardAttention(const AttentionConfig& c, HardConfig own) : SparseMixer("hard_attention", c), own_(own) {}

  Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens && !in.key_sizes, "hard_attention: no cu_seqlens and no sizes are accepted");
    const int64_t m = in.k.size(2), past = m - in.q.size(2);
    const auto q = in.q.detach().to(torch::kFloat64), k = in.k.detach().to(torch::kFloat64);
    const double scale = config_.scale > 0 ? config_.scale : 1 / std::sqrt(double(q.size(3)));
    const auto real = in.key_padding ? in.key_padding->logical_not().unsqueeze(1).unsqueeze(1)
                                     : torch::ones({1, 1, 1, m}, torch::kBool);
    const auto choice = [=, own = own_, causal = config_.causal, cap = config_.softcap](int64_t first, int64_t rows) {
      auto candidates = real;
      if (causal)
        candidates = candidates & (torch::arange(m) <= (torch::arange(first, first + rows) + past).unsqueeze(1));
      const auto asked = q.narrow(2, first, rows).unflatten(1, {k.size(1), q.size(1) / k.size(1)});
      const auto logits = torch::matmul(asked, k.unsqueeze(2).transpose(3, 4)).flatten(1, 2) * scale;
      if (own.ratio > 0) {
        const auto capped = cap > 0 ? torch::tanh(logits / cap) * cap : logits;
        const auto shown = capped.masked_fill(candidates.logical_not(), -INFINITY);
        return (shown >= shown.amax(3, true) + std::log(own.ratio)).logical_and_(candidates);
      }
      return nn::largest_share(logits, candidates, own.share);
    };
    return nn::row_attention(in.q, in.k, in.v, plain_options(in.seed), choice, in.report);
  }

 private:
  HardConfig own_;
};

}  // namespace

RegistryRow rows::hard_attention() {
  return {.name = "hard_attention",
          .family = "sparse_and_vision",
          .paper =
              "AxFormer: Accuracy-driven Approximation of Transformers for Faster, Smaller and more Accurate NLP "
              "Models (arXiv 2010.03688)",
          .year = 2020,
          .patterns = {true, true, true, true},
          .step = true,
          .core = true,
          .training_free = true,
          .cost = "O(N^2)",
          .parameters = attention_parameters(
              {{"share", 0.25, "of the keys that a query may see, rounded up: it sees those with the largest weights"},
               {"ratio", 0.0, "above 0: in its place, keys of at least this share of the row's largest weight"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}},
          .make = attention_maker("hard_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            HardConfig own;
            own.share = reader.get("share", own.share);
            own.ratio = reader.get("ratio", own.ratio);
            require(own.share > 0 && own.share <= 1, "hard_attention: share = {}: above 0 up to 1 is accepted",
                    own.share);
            require(own.ratio >= 0 && own.ratio <= 1, "hard_attention: ratio = {}: 0 to 1 is accepted", own.ratio);
            return std::make_shared<HardAttention>(config, own);
          })};
}

}  // namespace heed
