// Tokens of an image merged with those they resemble (ToMe, arXiv 2210.09461; for diffusion, arXiv 2303.17604).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// The first cell of every stride x stride region is kept. Of the others, the round(ratio L) most like one that is kept
/// (fewer where there are not as many) are merged into it; the rest stay. Merged tokens are means.
struct TokenMerge {
  torch::Tensor target;  ///< int64 [B, L]: which of the n tokens each cell becomes part of
  torch::Tensor weight;  ///< [B, L]: its share of it; padding has none
  torch::Tensor hidden;  ///< bool [B, n]: tokens that are padding alone; undefined without padding

  /// `metric` [B, L, C]: tokens are alike by the cosine of theirs. `padding` bool [B, L] or undefined. Throws
  /// heed::Error for strides below 1 and ratios outside [0, 1].
  TokenMerge(const torch::Tensor& metric, const torch::Tensor& padding, int64_t height, int64_t width, int64_t stride,
             double ratio);

  int64_t tokens() const { return tokens_; }
  /// x [B, L, C] -> [B, n, C]
  torch::Tensor merge(const torch::Tensor& x) const;

 private:
  int64_t tokens_;
};

}  // namespace heed::nn
