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

}  // namespace heed::ops
