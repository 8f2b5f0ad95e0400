#include "heed/ops/attn_stats.h"

#include "heed/error.h"
#include "heed/kernels/attn_stats.h"
#include "heed/kernels/runtime.h"
#include "heed/kernels/weight_influence.h"
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

torch::Tensor weight_influence(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                               const torch::Tensor& d_out, const AttentionOptions& options, int64_t block) {
  torch::NoGradGuard no_grad;
  require(block >= 1, "blocks of {}: 1 or more is accepted", block);
  FlashCall call(q.detach(), k.detach(), v.detach(), options);
  const auto side = q.options().requires_grad(false).dtype(call.side_dtype());
  call.lse = torch::empty(q.sizes().slice(0, 3), side);
  kernels::BlockList blocks;
  const auto params = call.params(blocks);
  kernels::attention_lse(params);
  const auto blocks_of = [&](int64_t length) { return (length + block - 1) / block; };
  auto sums = torch::empty({q.size(0), q.size(1), blocks_of(q.size(2)), blocks_of(k.size(2))}, side);
  const auto gradient = d_out.contiguous();
  kernels::WeightInfluence influence;
  influence.d_out = view_of(gradient);
  influence.query_block = influence.key_block = block;
  influence.influence = view_of(sums);
  kernels::weight_influence(params, influence);
  return sums;
}

}  // namespace heed::ops
