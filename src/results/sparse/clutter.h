// Samples of the task `clutter`, whose images are redundant for the most part, and the vision transformer that reads
// them.
#pragma once

#include "heed/models/vision.h"
#include "heed/train/task_batch.h"

namespace heed::results::sparse {

constexpr int64_t kCanvas = 24, kPatch = 4, kPieces = 8, kPatchSide = kCanvas / kPatch,
                  kPatches = kPatchSide * kPatchSide;

struct Clutter {
  torch::Tensor pixels;  ///< [B, 1, kCanvas, kCanvas]
  torch::Tensor labels;  ///< int64 [B]
  torch::Tensor digit;   ///< bool [B, kPatches]: the 2 x 2 patches of the digit
};

/// Samples [first, first + count) of a split.
Clutter clutter(tasks::Split split, uint64_t first, int64_t count);

/// A vision transformer of 4 layers with `plan`. Without a class token its mixers are told the grid of patches.
VisionTransformer clutter_model(const LayerPlan& plan, uint64_t seed, bool class_token);

/// Steps of 32 images; `step` hears each. Under a teacher its classes and last tokens are learned, too
/// (train::distillation_loss).
void train_clutter(VisionTransformer& model, int64_t steps, uint64_t seed, double rate,
                   const std::function<void(int64_t)>& step, VisionTransformer teacher = nullptr);

/// Of 360 test images.
double clutter_accuracy(VisionTransformer& model);

}  // namespace heed::results::sparse
