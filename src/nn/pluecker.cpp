#include "heed/nn/pluecker.h"

namespace heed::nn {

using torch::Tensor;

Tensor plane_coordinates(const Tensor& u, const Tensor& v) {
  const int64_t rank = u.size(-1);
  const auto pairs = torch::triu_indices(rank, rank, 1, torch::kInt64);
  const auto at = [&](const Tensor& t, int64_t side) { return t.index_select(-1, pairs[side]); };
  const auto p = at(u, 0) * at(v, 1) - at(u, 1) * at(v, 0);
  // The root of a sum that is no less than a square keeps its gradient finite where u and v are parallel.
  return p * torch::rsqrt(p.square().sum(-1, true).clamp_min(1e-16));
}

}  // namespace heed::nn
