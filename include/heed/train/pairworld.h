// Training of the small vision-text model on PairWorld.
#pragma once

#include <functional>

#include "heed/models/vision_text.h"
#include "heed/tasks/pairworld.h"

namespace heed::train {

struct PairWorldOptions {
  int64_t steps = 6000, batch = 64;
  double learning_rate = 4e-3;  ///< peak of a one-cycle schedule
  double text_only = 0.2;       ///< share of batches whose captions stand without an image
  /// Added to channel kSinkChannel of one image token without an object, in training and later: a sink is planted.
  double sink = 20;
  uint64_t seed = 0;
};
inline constexpr int64_t kSinkChannel = 0;

struct PairWorldBatch {
  torch::Tensor pixels;  ///< float [B, 16, 4, 4]
  torch::Tensor tokens;  ///< int64 [B, T]: captions, behind their end more ends
  torch::Tensor empty;   ///< int64 [B]: a patch without an object
  std::vector<std::vector<int64_t>> present;
};
/// Samples [first, first + size) of a split.
PairWorldBatch pair_world_batch(const tasks::PairWorld& world, tasks::Split split, int64_t first, int64_t size,
                                bool conflict = false);

/// A vision transformer of 6 layers with a class token, which is to tell what is present, and a decoder of 3, of width
/// 32 and 4 heads.
VisionText pair_world_model(uint64_t seed);

/// Adds the sink to image tokens [B, K, C] whose patches are `kept` int64 [B, K]; nothing where the patch was left out.
torch::Tensor plant_sink(const torch::Tensor& image, const torch::Tensor& kept, const torch::Tensor& empty,
                         double sink);

/// Cross-entropy of captions and of what the class token says is present. Returns the mean loss of the last tenth of
/// the steps; throws heed::Error where it is not finite.
double train_pair_world(VisionText& model, const tasks::PairWorld& world, const PairWorldOptions& options,
                        const std::function<void(int64_t step, double loss)>& report = {});

}  // namespace heed::train
