// memory_propagation learns to colour videos of moving shapes, and is measured by what it makes of a shape that comes
// back.
#pragma once

#include <functional>

#include "heed/models/memory_propagation.h"
#include "heed/tasks/moving_shapes.h"

namespace heed::train {

struct VideoBatch {
  torch::Tensor lightness;  ///< [B, T, 1, side, side]
  torch::Tensor colours;    ///< [B, T, 2, side, side]
  torch::Tensor first;      ///< [B, T, 1, side, side]: 1 where the shape is that is hidden for a while
};
VideoBatch video_batch(const tasks::MovingShapesOptions& options, tasks::Split split, uint64_t first, int64_t size);

struct VideoTrainOptions {
  int64_t steps = 1000, batch = 8;
  double learning_rate = 3e-3;
  uint64_t seed = 0;
};

/// Minimises the mean squared error of the colours of all frames but the first, through all frames: the absolute error
/// is least at the grey of the ground, which most pixels are. Returns its mean over the last tenth of the steps.
double train_video_colours(MemoryPropagation& model, const tasks::MovingShapesOptions& videos,
                           const VideoTrainOptions& options,
                           const std::function<void(int64_t done, int64_t total)>& report = {});

/// Mean absolute error of colours, by the model and by grey, on the hidden shape's pixels after it has come back, over
/// `count` test videos.
struct VideoScore {
  double error = 0, grey = 0;
};
VideoScore score_video_colours(MemoryPropagation& model, const tasks::MovingShapesOptions& videos, int64_t count);

}  // namespace heed::train
