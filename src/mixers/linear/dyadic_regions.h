// Attention to a past cut into blocks of 1, 2, 4, ... tokens, each summed up to one key and one value.
#pragma once

#include "mixers/linear/region_pool.h"

namespace heed::linear {

struct DyadicRegions {
  double scale;
  bool causal;
  bool count_regions;  ///< a region's logit gets the logarithm of its tokens
  RegionPool pool;
};

/// Tokens [first, N) of q, k, v [B, H, N, D] against themselves and their regions under one softmax: where bit l of
/// token i is set, the 2^l tokens before its own aligned block of 2^l, so that the blocks of i's binary expansion hold
/// every earlier token once; without causal also the 2^l tokens behind, where it is not. A region has the pooled key of
/// its tokens and the expectation of their values under their pooled query. real [B, 1, N, 1]: 0 for tokens that nobody
/// sees. O(N log N).
torch::Tensor attend_dyadic(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                            const torch::Tensor& real, int64_t first, const DyadicRegions& regions);

}  // namespace heed::linear
