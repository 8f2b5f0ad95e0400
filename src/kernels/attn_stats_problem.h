// What the entries about attention weights share: the call without values, its checks, and which rows are wanted.
#pragma once

#include <vector>

#include "kernels/flash_problem.h"

#include "heed/kernels/attn_stats.h"

namespace heed::kernels {

/// The call with values and output replaced by what every check accepts: weights need neither.
FlashParams weights_problem(const FlashParams& params);

void check(const FlashParams& problem, const AttnStats& stats);
void check_weights(const FlashParams& problem, const int64_t* rows, int64_t num_rows, const AnyView& weights,
                   const char* name);
void check_weight_grads(const FlashParams& problem, const AnyView& d_q, const AnyView& d_k, const AnyView& d_lse);

/// Query n of the tensors: its sequence and index there; sequence -1 where n lies in none.
struct RowPlace {
  int64_t sequence = -1, i = 0;
};
RowPlace place_of_row(const FlashParams& problem, int64_t b, int64_t n);

}  // namespace heed::kernels
