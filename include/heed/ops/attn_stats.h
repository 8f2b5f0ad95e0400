// Sums of attention weights on torch tensors, tile by tile. Nothing here is differentiable.
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"

namespace heed::ops {

struct LineSums {
  torch::Tensor columns;    ///< float [B, Hq, M]: weight that each key got
  torch::Tensor diagonals;  ///< float [B, Hq, M]: weight at each distance i' - j; undefined unless asked for
};

/// Over all rows of q [B, Hq, N, D] against k [B, Hk, M, D] under softmax with the scale, soft cap and mask of
/// `options`. `lse` [B, Hq, N] of the forward; undefined: computed.
LineSums line_sums(const torch::Tensor& q, const torch::Tensor& k, const AttentionOptions& options,
                   const torch::Tensor& lse = {}, bool diagonals = false);

/// How a loss that is linear in the output changes when weights are masked and their row renormalised, as sums of
/// magnitudes over blocks of `block` queries and keys: float (double of float64 calls) [B, Hq, query blocks, key
/// blocks]. `d_out` [B, Hq, N, Dv] is the gradient of the loss; kernels::WeightInfluence.
torch::Tensor weight_influence(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                               const torch::Tensor& d_out, const AttentionOptions& options, int64_t block = 64);

}  // namespace heed::ops
