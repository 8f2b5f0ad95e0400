#include "heed/nn/lsh.h"

#include "heed/nn/generator.h"

namespace heed::nn {

using torch::Tensor;

Tensor polytope_buckets(const Tensor& x, const Tensor& rotations) {
  const auto products = torch::matmul(x.detach().unsqueeze(2), rotations.to(x.scalar_type()));
  return torch::cat({products, -products}, 4).argmax(4);
}

Tensor gray_places(const Tensor& x, const Tensor& directions) {
  const int64_t bits = directions.size(1);
  const auto signs = (torch::matmul(x.detach(), directions.to(x.scalar_type())) > 0).to(torch::kInt64);
  auto code = torch::zeros(signs.sizes().slice(0, 3), torch::kInt64);
  for (int64_t bit = 0; bit < bits; ++bit) code = code * 2 + signs.select(3, bit);
  for (int64_t shift = 1; shift < bits; shift *= 2) code = code.bitwise_xor(code.bitwise_right_shift(shift));
  return code;
}

Tensor seeded_normal(at::IntArrayRef sizes, uint64_t seed) {
  return torch::randn(sizes, seeded_generator(seed), torch::kFloat32);
}

}  // namespace heed::nn
