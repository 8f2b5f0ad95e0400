// Combiner's axial mixture: tokens as the cells of a grid, each seeing its row and its column directly and the parts of
// all others through what sums them up.
#pragma once

#include "heed/attention.h"
#include "mixers/linear/region_pool.h"

namespace heed::linear {

/// q, k, v [B, H, R, s, D] of R rows of s tokens; real [B, 1, R, s, 1] is 0 for tokens that nobody sees.
struct TokenGrid {
  torch::Tensor q, k, v, real;

  TokenGrid rows_from(int64_t first) const;
};

struct MixtureOptions {
  bool causal;
  bool count_regions;  ///< a region's logit gets the logarithm of its tokens
};

/// Of every cell, what of its row stands to its left and to its right: [B, H, R, 2, s, D], and counts [B, 1, R, 2, s,
/// 1]. A side has the pooled key of its tokens and the expectation of their values under their pooled query.
RegionSummaries row_sides(const TokenGrid& grid, RegionPool& pool);

/// Attention of the rows from `first` on, [B, H, R - first, s, D], under one softmax over: the own row, up to the token
/// where causal; the own column above it; of every other column, what lies above the own row; of every row above,
/// `sides` of it at the own column. Without causal, columns count below, too, and all other rows. O(R s (R + s)).
torch::Tensor attend_mixture(const TokenGrid& grid, const RegionSummaries& sides, int64_t first, RegionPool& pool,
                             const MixtureOptions& options);

}  // namespace heed::linear
