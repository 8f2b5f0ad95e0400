// The HiPPO-LegS matrix in the basis where it is diagonal but for one rank.
#pragma once

#include <torch/torch.h>

namespace heed::linear {

/// A + P P^T = -I / 2 + a skew matrix, so that A = V diag(eigenvalues) V^H - P P^T with unitary V: eigenvalues,
/// V^H P and V^H B, complex128 [N / 2], one of each conjugate pair, by rising frequency.
struct Hippo {
  torch::Tensor eigenvalues, p, b;
};
/// `states` N even.
Hippo hippo_legs(int64_t states);

/// A of HiPPO-LegS, float64 [N, N]: -sqrt((2 n + 1) (2 k + 1)) below the diagonal, -(n + 1) on it.
torch::Tensor hippo_matrix(int64_t states);

}  // namespace heed::linear
