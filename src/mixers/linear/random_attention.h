// Features of attention with frozen random scores, and the values that fit them best (arXiv 2307.11353).
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::linear {

/// x [..., d] -> [..., d + 1] with a 1 behind.
torch::Tensor with_one(const torch::Tensor& x);

/// Matrices W_m [H, d + 1, d + 1] of Gaussian entries, plus diag(1, ..., 1, 0) where biased.
class RandomScores {
 public:
  RandomScores(int64_t dim, int64_t heads, double deviation, bool biased, uint64_t seed);

  /// (1 / M) sum_i relu(q~^T W_m k~_i) k~_i: queries [B, N, d], keys [B, M, d] -> [B, N, H, d + 1]. Padded keys (bool
  /// [B, M]) count for nothing.
  torch::Tensor features(const torch::Tensor& queries, const torch::Tensor& keys,
                         const std::optional<torch::Tensor>& key_padding = {}) const;

 private:
  torch::Tensor weights_;
};

/// The w [F, outputs] with the least |features w - targets|^2 + penalty |w|^2, in float64.
torch::Tensor ridge(const torch::Tensor& features, const torch::Tensor& targets, double penalty);

}  // namespace heed::linear
