#include "mixers/linear/hippo.h"

namespace heed::linear {

using torch::Tensor;

Tensor hippo_matrix(int64_t states) {
  const auto n = torch::arange(states, torch::kFloat64), root = torch::sqrt(2 * n + 1);
  return -(root.unsqueeze(1) * root.unsqueeze(0)).tril(-1) - torch::diag(n + 1);
}

Hippo hippo_legs(int64_t states) {
  const auto n = torch::arange(states, torch::kFloat64);
  const auto p = torch::sqrt(n + 0.5), b = torch::sqrt(2 * n + 1);
  const auto skew = hippo_matrix(states) + p.unsqueeze(1) * p.unsqueeze(0) + 0.5 * torch::eye(states, torch::kFloat64);
  // i S is Hermitian; S v = -i w v where i S v = w v, so the first half has positive frequencies, largest first.
  const auto [w, v] = torch::linalg_eigh(torch::complex(torch::zeros_like(skew), skew), "L");
  const auto basis = v.narrow(1, 0, states / 2).flip(1).conj().t();
  const auto frequency = -w.narrow(0, 0, states / 2).flip(0);
  const auto in_basis = [&](const Tensor& x) { return torch::mv(basis, x.to(torch::kComplexDouble)); };
  return {torch::complex(torch::full_like(frequency, -0.5), frequency), in_basis(p), in_basis(b)};
}

}  // namespace heed::linear
