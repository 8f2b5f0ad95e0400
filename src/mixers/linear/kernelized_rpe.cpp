// Normalised random-feature attention whose weights are multiplied by exp(b of the distance), by FFT.
#include "heed/nn/random_features.h"
#include "heed/ops/toeplitz_fft.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct KernelizedRpeConfig {
  int64_t features = 0;  ///< 0: key_dim
  int64_t max_length = 1024;
  double temperature = 1;  ///< features estimate exp(temperature * cos(q, k))
  uint64_t seed = 0;
};

class KernelizedRpe final : public linear::LinearAttention {
 public:
  KernelizedRpe(const HeadsConfig& config, const KernelizedRpeConfig& own)
      : LinearAttention("kernelized_rpe", config), own_(own) {
    const int64_t features = own.features ? own.features : config.key_dim;
    rows_ = register_buffer("rows", nn::orthogonal_rows(features, config.key_dim, own.seed));
    bias_ = register_parameter("bias", torch::zeros({config.heads, 2 * own.max_length - 1}));
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(!call.input.cu_seqlens, "kernelized_rpe: cu_seqlens is not accepted");
    const int64_t n = heads.q.size(2), d = heads.v.size(3);
    require(heads.k.size(2) == n, "kernelized_rpe: {} queries and {} keys; as many is accepted", n, heads.k.size(2));
    require(n <= own_.max_length, "kernelized_rpe: {} tokens; up to max_length = {} is accepted", n, own_.max_length);
    const auto q = features(heads.q), k = call.heads_without_padding(features(heads.k));
    const auto& v = heads.v;
    // c(i - j) of lags -(n - 1) to n - 1; of 0 to n - 1 where causal.
    constexpr double kLargest = 10;  // beyond, an FFT leaves less of the small ones than of its rounding
    const auto lags =
        causal_ ? bias_.narrow(1, own_.max_length - 1, n) : bias_.narrow(1, own_.max_length - n, 2 * n - 1);
    const auto weights = torch::exp(lags.clamp(-kLargest, kLargest)).to(v.scalar_type());
    const auto c = weights.view({1, config_.heads, -1, 1});
    // A few features at a time, so that memory is that of a few columns.
    const int64_t features_count = q.size(3), group = std::max<int64_t>(1, 64 / (d + 1));
    const auto sources = torch::cat({v, torch::ones_like(v.narrow(3, 0, 1))}, 3);
    Tensor sums;
    for (int64_t f = 0; f < features_count; f += group) {
      const int64_t count = std::min(group, features_count - f);
      const auto columns = (k.narrow(3, f, count).unsqueeze(-1) * sources.unsqueeze(3)).flatten(3);
      const auto moved = ops::toeplitz_fft(c, columns, causal_).unflatten(3, {count, d + 1});
      const auto part = (q.narrow(3, f, count).unsqueeze(-1) * moved).sum(3);
      sums = sums.defined() ? sums + part : part;
    }
    return sums.narrow(3, 0, d) / sums.narrow(3, d, 1).clamp_min(1e-6);
  }

 private:
  Tensor features(const Tensor& t) const {
    const auto unit = t * torch::rsqrt(t.square().sum(-1, true) + 1e-12) * std::sqrt(own_.temperature);
    return torch::exp(nn::positive_feature_logits(unit, rows_)) / std::sqrt(static_cast<double>(rows_.size(0)));
  }

  KernelizedRpeConfig own_;
  Tensor rows_, bias_;  // [features, key_dim], [H, 2 max_length - 1] of lags i - j
};

}  // namespace

RegistryRow rows::kernelized_rpe() {
  return {.name = "kernelized_rpe",
          .family = "linear_and_recurrent",
          .paper = "Kernelized Attention with Relative Positional Encoding (arXiv 2106.12566)",
          .year = 2021,
          .patterns = {true, true, false, false},
          .spectral = true,
          .core = true,
          .cost = "O(N log N)",
          .parameters = linear::heads_parameters({{"features", 0, "random features; 0: key_dim"},
                                                  {"max_length", 1024, "tokens that the table of distances covers"},
                                                  {"temperature", 1.0, "t of the estimated exp(t cos(q, k))"},
                                                  {"seed", 0, "of the random rows"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"features", 10}, {"max_length", 64}},
          .make = linear::heads_maker("kernelized_rpe", [](const HeadsConfig& config, ConfigReader& reader) {
            KernelizedRpeConfig own;
            own.features = reader.integer("features", 0, 0, 1 << 16);
            own.max_length = reader.integer("max_length", own.max_length, 1, 1 << 24);
            own.temperature = reader.get("temperature", own.temperature);
            require(own.temperature > 0 && own.temperature <= 60,
                    "kernelized_rpe: temperature = {}: above 0, up to 60 is accepted", own.temperature);
            own.seed = static_cast<uint64_t>(reader.integer("seed", 0, 0));
            return std::make_shared<KernelizedRpe>(config, own);
          })};
}

}  // namespace heed
