// Tokens of an image merged with those they resemble (ToMe, arXiv 2210.09461; for diffusion, arXiv 2303.17604).
#pragma once

#include "heed/nn/token_reducer.h"

namespace heed::nn {

/// The first cell of every stride x stride region is kept. Of the others, the round(ratio L) most like one that is kept
/// (fewer where there are not as many) are merged into it; the rest stay. Merged tokens are means.
struct TokenMerge : TokenMap {
  /// `metric` [B, L, C]: tokens are alike by the cosine of theirs. `padding` bool [B, L] or undefined. Throws
  /// heed::Error for strides below 1 and ratios outside [0, 1].
  TokenMerge(const torch::Tensor& metric, const torch::Tensor& padding, int64_t height, int64_t width, int64_t stride,
             double ratio);
};

}  // namespace heed::nn
