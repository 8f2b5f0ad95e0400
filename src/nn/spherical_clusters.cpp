#include "heed/nn/spherical_clusters.h"

#include "heed/nn/generator.h"

namespace heed::nn {

using torch::Tensor;
namespace F = torch::nn::functional;

namespace {

Tensor unit(const Tensor& x) { return F::normalize(x, F::NormalizeFuncOptions().dim(-1)); }

}  // namespace

Tensor direction(const Tensor& x) { return unit(F::layer_norm(x, F::LayerNormFuncOptions({x.size(-1)}))); }

SphericalClustersImpl::SphericalClustersImpl(int64_t heads, int64_t clusters, int64_t dim, uint64_t seed) {
  auto generator = seeded_generator(seed);
  centroids_ = register_buffer("centroids", unit(torch::randn({heads, clusters, dim}, generator)));
  fitted_ = register_buffer("fitted", torch::zeros({1}, torch::kBool));
}

Tensor SphericalClustersImpl::scores(const Tensor& directions) const {
  return torch::matmul(centroids_, directions.detach().transpose(2, 3));
}

Tensor SphericalClustersImpl::nearest(const Tensor& directions) const { return scores(directions).argmax(2); }

void SphericalClustersImpl::follow(const Tensor& directions, const Tensor& shown, double decay) {
  torch::NoGradGuard no_grad;
  auto assigned = torch::one_hot(nearest(directions), count()).to(centroids_.scalar_type());  // [B, H, N, C]
  if (shown.defined()) assigned = assigned * shown.view({shown.size(0), 1, -1, 1}).to(assigned.scalar_type());
  const auto sums = torch::einsum("bhnc,bhnd->hcd", {assigned, directions});
  const auto some = (assigned.sum(at::IntArrayRef{0, 2}) > 0).unsqueeze(2);
  centroids_.copy_(torch::where(some, centroids_ * decay + unit(sums) * (1 - decay), centroids_));
}

void SphericalClustersImpl::fit(const Tensor& directions, const Tensor& shown, int64_t rounds) {
  torch::NoGradGuard no_grad;
  auto rows = directions.transpose(0, 1).flatten(1, 2);  // [H, B N, D]
  if (shown.defined()) rows = rows.index_select(1, shown.flatten().nonzero().squeeze(1));
  if (rows.size(1) == 0) return;
  centroids_.copy_(rows.index_select(1, (torch::arange(count()) * rows.size(1)).div(count(), "floor")));
  for (int64_t round = 0; round < rounds; ++round) follow(directions, shown, 0);
  fitted_.fill_(true);
}

}  // namespace heed::nn
