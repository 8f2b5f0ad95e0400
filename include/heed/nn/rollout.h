// Where information flowed through all layers of attention (attention rollout, arXiv 2005.00928).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/mixers/taps.h"

namespace heed::nn {

/// The mean over heads of softmax(q k^T / sqrt(D)): q [B, Hq, N, D], k [B, Hk, M, D] -> [B, N, M], without gradient.
/// Consecutive query heads share a key head.
torch::Tensor mean_weights(const torch::Tensor& q, const torch::Tensor& k);

/// `maps` [B, N, N], one a layer, rows that sum to 1: the product, last layer first, of (map + I) / 2. [B, N, N].
torch::Tensor rollout(const std::vector<torch::Tensor>& maps);
/// Row `row` of it, [B, N], by products of a vector with matrices.
torch::Tensor rollout_row(const std::vector<torch::Tensor>& maps, int64_t row);

/// Collects the mean weights of every layer whose core is softmax attention.
class WeightTaps : public Taps {
 public:
  void core_input(const LayerContext&, CoreInput& in) override { maps.push_back(mean_weights(in.q, in.k)); }

  std::vector<torch::Tensor> maps;
};

}  // namespace heed::nn
