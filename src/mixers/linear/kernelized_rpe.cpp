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
  /// Its tokens are at the places of the same numbers as x.
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(!call.input.cu_seqlens, "kernelized_rpe: cu_seqlens is not accepted");
    const int64_t n = heads.q.size(2), d = heads.v.size(3), end = call.seen() + std::max(n, heads.k.size(2));
    require(!causal_ || heads.k.size(2) == n, "kernelized_rpe: {} queries and {} keys; as many is accepted", n,
            heads.k.size(2));
    require(end <= own_.max_length, "kernelized_rpe: {} tokens; up to max_length = {} is accepted", end,
            own_.max_length);
    const auto q = features(linear::wide(heads.q)), v = call.heads_without_padding(linear::wide(heads.v));
    auto k = call.heads_without_padding(features(linear::wide(heads.k))),
         sources = torch::cat({v, torch::ones_like(v.narrow(3, 0, 1))}, 3);
    if (call.carries()) k = continued(call.slot(0), k), sources = continued(call.slot(1), sources);
    const auto sums = call.seen() > 0 ? behind_others(q, k, sources) : from_the_beginning(q, k, sources);
    return (sums.narrow(3, 0, d) / sums.narrow(3, d, 1).clamp_min(1e-6)).to(heads.v.scalar_type());
  }

 private:
  /// `t` behind what a slot holds, which becomes both.
  static Tensor continued(Tensor& held, const Tensor& t) {
    held = held.defined() ? torch::cat({held, t}, 2) : t;
    return held;
  }

  /// exp(b) of some columns of the table; of -inf, which a window has, 0.
  Tensor weights(const Tensor& lags, torch::ScalarType type) const {
    constexpr double kLargest = 10;  // beyond, an FFT leaves less of the small ones than of its rounding
    return torch::exp(lags.clamp(-kLargest, kLargest)).masked_fill(lags == -INFINITY, 0).to(type);
  }

  /// sum_j c(i - j) (q_i . k_j) sources_j of all tokens at once, q [B, H, N, m], k [B, H, M, m], sources [B, H, M, d].
  Tensor from_the_beginning(const Tensor& q, const Tensor& k, const Tensor& sources) const {
    // c(i - j) of lags -(n - 1) to n - 1; of 0 to n - 1 where causal.
    const int64_t n = std::max(q.size(2), k.size(2)), features_count = q.size(3), width = sources.size(3);
    const auto lags =
        causal_ ? bias_.narrow(1, own_.max_length - 1, n) : bias_.narrow(1, own_.max_length - n, 2 * n - 1);
    const auto c = weights(lags, q.scalar_type()).view({1, config_.heads, -1, 1});
    // A few features at a time, so that memory is that of a few columns.
    const int64_t group = std::max<int64_t>(1, 64 / width);
    Tensor sums;
    for (int64_t f = 0; f < features_count; f += group) {
      const int64_t count = std::min(group, features_count - f);
      const auto columns = (k.narrow(3, f, count).unsqueeze(-1) * sources.unsqueeze(3)).flatten(3);
      const auto moved = ops::toeplitz_fft(c, torch::constant_pad_nd(columns, {0, 0, 0, n - k.size(2)}), causal_);
      const auto read = moved.narrow(2, 0, q.size(2)).unflatten(3, {count, width});
      const auto part = (q.narrow(3, f, count).unsqueeze(-1) * read).sum(3);
      sums = sums.defined() ? sums + part : part;
    }
    return sums;
  }

  /// The same of the last tokens alone, causal, by pairs: O(n M).
  Tensor behind_others(const Tensor& q, const Tensor& k, const Tensor& sources) const {
    const int64_t n = q.size(2), all = k.size(2);
    const auto c = weights(bias_.narrow(1, own_.max_length - 1, all), q.scalar_type());  // of lags 0 to all - 1
    const auto lag = torch::arange(all - n, all).unsqueeze(1) - torch::arange(all);
    const auto pairs = c.index_select(1, lag.clamp_min(0).flatten()).view({1, config_.heads, n, all});
    return torch::matmul(torch::matmul(q, k.transpose(2, 3)) * pairs.masked_fill(lag < 0, 0), sources);
  }

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
          .patterns = {true, true, true, false},
          .step = true,
          .one_way = true,
          .spectral = true,
          .core = true,
          .cost = "O(N log N)",
          .parameters = linear::drop_in_parameters({{"features", 0, "random features; 0: key_dim"},
                                                    {"max_length", 1024, "tokens that the table of distances covers"},
                                                    {"temperature", 1.0, "t of the estimated exp(t cos(q, k))"},
                                                    {"seed", 0, "of the random rows"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"features", 10}, {"max_length", 64}},
          .make = linear::drop_in_maker("kernelized_rpe", [](const HeadsConfig& config, ConfigReader& reader) {
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
