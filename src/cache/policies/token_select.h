// The vote of TokenSelect.
#pragma once

#include "heed/ops/cache.h"

namespace heed::cache {

/// Of q [B, Hq, 1, D] over slots [begin, end) of a cache whose heads hold equally many: float [B, 1, 1, end - begin],
/// the softmax weights of every query head summed. A head has one vote whatever the size of its logits; all votes
/// together are Hq. `scale` multiplies the products.
torch::Tensor token_votes(const torch::Tensor& q, const ops::CacheTensors& cache, int64_t begin, int64_t end,
                          double scale);

}  // namespace heed::cache
