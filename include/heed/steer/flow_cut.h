// FlowCut (Rethinking Redundancy via Information Flow for Efficient Vision-Language Models, 2025): patches leave a
// vision transformer layer by layer, by a score that layers add to and at a rate that attention's concentration sets.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/vision.h"

namespace heed::steer {

struct FlowCutOptions {
  int64_t target = 64;  ///< patches that are left
  /// Features are read after this layer; below 0: counted from the end. Patches leave after layers before it.
  int64_t select = -2;
};

struct FlowCut {
  torch::Tensor features;  ///< [B, K, C] of the patches that are left, after layer `select`
  torch::Tensor hidden;    ///< [B, 1 + K, C] after all layers and the last norm, as the model's own; 1: class token
  torch::Tensor kept;      ///< int64 [B, K]: which patches of the image, ascending
  std::vector<int64_t> counts;  ///< patches after each layer up to `select`
};

/// Tokens x [B, tokens, C] as `VisionTransformer::embed` gives them. Patches and their order are kept per image; all
/// images of a batch lose as many as the one that loses most. Without a class token the mean of queries and of values
/// takes its place. Throws heed::Error for layers that are no softmax attention, or that rotate positions.
FlowCut flow_cut(VisionTransformer& model, const torch::Tensor& x, const FlowCutOptions& options = {});

/// Patches that leave when `left` layers before the features are still to come: weights float [B, N] of the class token
/// on N patches. round((N - target) / sqrt(left) (1 - H^2)), H being the entropy over ln N; all but the target when
/// none is to come. The largest of the batch.
int64_t patches_to_cut(const torch::Tensor& class_weights, int64_t target, int64_t left);

/// What others keep: the patches with the largest weight of the class token at layer `select` of the whole image, or a
/// draw. The layers up to `select` run over all patches, those behind over the kept ones.
FlowCut cut_by_class_attention(VisionTransformer& model, const torch::Tensor& x, const FlowCutOptions& options = {});
FlowCut cut_at_random(VisionTransformer& model, const torch::Tensor& x, const FlowCutOptions& options, uint64_t seed);

}  // namespace heed::steer
