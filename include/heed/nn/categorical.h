// Discrete variables inside networks: samples that gradients pass, and numbers as distributions over bins.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// One-hot samples of softmax(logits) over the last dimension, drawn by `seed`, whose gradient is that of the softmax
/// (straight-through, arXiv 1308.3432).
torch::Tensor straight_through_sample(const torch::Tensor& logits, uint64_t seed);

/// KL(softmax(a) || softmax(b)) over the last dimension.
torch::Tensor categorical_kl(const torch::Tensor& a, const torch::Tensor& b);

/// sign(x) log(1 + |x|) and its inverse.
torch::Tensor symlog(const torch::Tensor& x);
torch::Tensor symexp(const torch::Tensor& x);

/// A number as weights of the two bins around its symlog, of bins evenly spread over [-range, range] (DreamerV3,
/// arXiv 2301.04104).
class TwoHot {
 public:
  /// Throws heed::Error for fewer than 2 bins and ranges that are not positive.
  TwoHot(int64_t bins, double range);

  /// x [...] -> [..., bins]; beyond the range all weight is at its end.
  torch::Tensor encode(const torch::Tensor& x) const;
  /// The number that softmax(logits [..., bins]) stands for: [...].
  torch::Tensor decode(const torch::Tensor& logits) const;
  /// Cross-entropy of the encoded x [...]: [...].
  torch::Tensor loss(const torch::Tensor& logits, const torch::Tensor& x) const;
  int64_t bins() const { return bins_; }

 private:
  int64_t bins_;
  double range_;
};

}  // namespace heed::nn
