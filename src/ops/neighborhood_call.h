// Options of a neighbourhood as kernel parameters.
#pragma once

#include "heed/ops/flash.h"
#include "heed/ops/neighborhood.h"

namespace heed::ops {

/// Options of an operator's arguments; `causal` holds 0 or 1.
NeighborhoodOptions neighborhood_options(at::IntArrayRef grid, at::IntArrayRef window, at::IntArrayRef stride,
                                         at::IntArrayRef dilation, at::IntArrayRef causal);

/// One call, checked; keeps its tensors alive.
struct NeighborhoodCall {
  FlashCall flash;
  kernels::Neighborhood around;
  torch::Tensor hidden;  ///< uint8 [B, M]; undefined: nothing is

  NeighborhoodCall(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                   const NeighborhoodOptions& options);
  kernels::NeighborhoodParams params() const;
  void forward();
};

}  // namespace heed::ops
