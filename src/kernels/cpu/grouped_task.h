// Grouped attention behind the dispatch: the queries of one block of one head at a time, in scratch that the caller
// owns.
#pragma once

#include "heed/kernels/grouped_attention.h"

namespace heed::kernels {

/// Queries [begin, end) of head `head`, all in block `own`.
struct GroupedItem {
  int64_t batch, head, own, begin, end;
};

/// `block`: grouped_scratch_bytes(params), 64-byte aligned.
void run_grouped_forward(const GroupedParams& params, const GroupedItem& item, void* block);
/// Writes the queries' gradients, adds those of keys and values, divided by the scale, to float rows
/// [M][D or Dv rounded up to 16].
void run_grouped_backward(const GroupedParams& params, const GroupedGrads& grads, const GroupedItem& item,
                          float* d_keys, float* d_values, void* block);
int64_t grouped_scratch_bytes(const GroupedParams& params);

}  // namespace heed::kernels
