#include "heed/ops/attn_stats.h"

#include "heed/kernels/attn_stats.h"
#include "heed/kernels/runtime.h"
#include "heed/ops/flash.h"

namespace heed::ops {

LineSums line_sums(const torch::Tensor& q, const torch::Tensor& k, const AttentionOptions& options,
                   const torch::Tensor& lse, bool diagonals) {
  FlashCall call(q, k, k, options);
  const auto side = q.options().dtype(call.side_dtype());
  call.lse = lse.defined() ? lse.to(call.side_dtype()).contiguous() : torch::empty(q.sizes().slice(0, 3), side);
  kernels::BlockList blocks;
  const auto params = call.params(blocks);
  if (!lse.defined()) kernels::attention_lse(params);
  LineSums sums;
  sums.columns = torch::empty({q.size(0), q.size(1), 1, k.size(2)}, side);
  kernels::AttnStats stats;
  stats.column_sum = view_of(sums.columns);
  if (diagonals) {
    sums.diagonals = torch::empty_like(sums.columns);
    stats.diagonal_sum = view_of(sums.diagonals);
  }
  kernels::attn_stats(params, stats);
  sums.columns = sums.columns.squeeze(2);
  if (diagonals) sums.diagonals = sums.diagonals.squeeze(2);
  return sums;
}

}  // namespace heed::ops
