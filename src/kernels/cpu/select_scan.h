// The passes over a row of scores that selection is made of, behind the dispatch.
#pragma once

#include <cstdint>

namespace heed::kernels {

/// Passes write whole vectors: what they fill has this much room behind it.
inline constexpr int64_t kScanPadding = 16;

/// order[i] = order_of(row[i]); with `weights`, of weight_in_mass(row[i]).
void order_scores(const float* row, int64_t count, bool weights, uint32_t* order);

/// Keeps those whose digit (order >> shift & mask) is `bucket`, in order; returns how many. `to` may be `from`.
int64_t keep_bucket(const uint32_t* from, int64_t count, int shift, uint32_t mask, uint32_t bucket, uint32_t* to);

/// Appends to `list` the indices begin + i of all orders above `threshold` and of the first `ties` that equal it,
/// ascending; returns how many.
int64_t list_above(const uint32_t* order, int64_t count, uint32_t threshold, int64_t ties, int64_t begin,
                   int32_t* list);

}  // namespace heed::kernels
