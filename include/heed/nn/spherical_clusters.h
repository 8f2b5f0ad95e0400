// Clusters of directions, one set a head, whose centroids follow what they are given (online spherical k-means).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// x [..., D] as a direction: its layer norm without parameters, brought to length 1. A constant vector becomes 0.
torch::Tensor direction(const torch::Tensor& x);

/// Centroids are a buffer: they have no gradient, are saved with the model, and move only when asked to.
class SphericalClustersImpl : public torch::nn::Module {
 public:
  /// Centroids start as random directions.
  SphericalClustersImpl(int64_t heads, int64_t clusters, int64_t dim, uint64_t seed);

  /// Products of directions [B, H, N, D] with the centroids: [B, H, C, N].
  torch::Tensor scores(const torch::Tensor& directions) const;
  /// The centroid with the largest product, of equal ones the first: int64 [B, H, N].
  torch::Tensor nearest(const torch::Tensor& directions) const;
  /// Every centroid becomes decay times itself plus 1 - decay times the mean direction of the vectors nearest to it;
  /// one that has none stays. `shown` bool [B, N] or undefined: the others don't count.
  void follow(const torch::Tensor& directions, const torch::Tensor& shown, double decay);
  /// Centroids of `rounds` rounds of k-means, begun at directions evenly spread over those shown.
  void fit(const torch::Tensor& directions, const torch::Tensor& shown, int64_t rounds);

  int64_t count() const { return centroids_.size(1); }
  const torch::Tensor& centroids() const { return centroids_; }  ///< [H, C, D]
  bool fitted() const { return fitted_.item<bool>(); }

 private:
  torch::Tensor centroids_, fitted_;
};
TORCH_MODULE(SphericalClusters);

}  // namespace heed::nn
