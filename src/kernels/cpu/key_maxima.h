// The largest product of each of a few keys with the rows of a block of queries.
#pragma once

#include "kernels/cpu/band_task.h"

namespace heed::kernels {

/// Floats that `count` queries of `columns` take when packed.
int64_t packed_queries_floats(int64_t count, int64_t columns);
/// Packs the queries at rows, rows + stride, ...: lanes run over queries, and lanes beyond the last one repeat it.
void pack_queries(const float* rows, int64_t stride, int64_t count, int64_t columns, float* to);
/// to[place] = the largest <query, row of token> over the `count` packed queries, for every entry. NaN lies below
/// everything.
void key_maxima(const BandRow& of, const float* packed, int64_t count, float* to);

}  // namespace heed::kernels
