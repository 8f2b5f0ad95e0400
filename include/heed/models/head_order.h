// The order of a model's heads, which what it computes does not depend on.
#pragma once

#include <cstdint>
#include <vector>

#include "heed/models/decoder_lm.h"

namespace heed {

/// KV head order[i] of a layer becomes KV head i, and its query heads go with it: rows of the projections of q, k, v
/// and columns of the output's move. Engines that keep one cache for a layer's full heads and one for its streaming
/// heads want each kind side by side. Throws heed::Error for an order that is no permutation of the KV heads, and for a
/// layer that is no attention.
void reorder_kv_heads(DecoderLm& model, int64_t layer, const std::vector<int64_t>& order);

}  // namespace heed
