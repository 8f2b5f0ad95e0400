// Planes as vectors: the Pluecker coordinates of the plane that two vectors span.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// p_ij = u_i v_j - u_j v_i for i < j, row by row of i: u, v [..., r] (broadcast) -> [..., r (r - 1) / 2], at length 1.
/// A plane keeps its coordinates, up to the sign, whichever two of its vectors are given. Parallel vectors give 0, with
/// finite gradients.
torch::Tensor plane_coordinates(const torch::Tensor& u, const torch::Tensor& v);

}  // namespace heed::nn
