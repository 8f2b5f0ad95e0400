#include "heed/nn/random_features.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/generator.h"

namespace heed::nn {

using torch::Tensor;

Tensor orthogonal_rows(int64_t count, int64_t dim, uint64_t seed) {
  require(count > 0 && dim > 0, "random features: {} rows of {}; 1 or more is accepted", count, dim);
  auto generator = seeded_generator(seed);
  const auto draw = [&](int64_t rows) { return torch::randn({rows, dim}, generator, torch::kFloat64); };
  std::vector<Tensor> blocks;
  for (int64_t done = 0; done < count; done += dim) {
    // The signs make the rows uniform over all orthogonal bases.
    const auto [q, r] = torch::linalg_qr(draw(dim));
    const auto unit = (q * r.diagonal().sign()).t();
    const auto norms = draw(dim).norm(2, 1, true);
    blocks.push_back((unit * norms).narrow(0, 0, std::min(dim, count - done)));
  }
  return torch::cat(blocks).to(torch::kFloat32);
}

Tensor positive_feature_logits(const Tensor& x, const Tensor& rows) {
  return torch::matmul(x, rows.to(x.scalar_type()).t()) - x.square().sum(-1, true) / 2;
}

}  // namespace heed::nn
