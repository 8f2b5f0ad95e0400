// Samples of a task as tensors.
#pragma once

#include <torch/torch.h>

#include "heed/tasks/task.h"

namespace heed::train {

/// B samples of a task, as its face has them; P answers a sample: one a position, or one.
struct TaskBatch {
  /// int64 [B, N], shorter samples filled with token 0 behind their end; float [B, N, channels]; or float
  /// [B, channels, height, width].
  torch::Tensor inputs;
  torch::Tensor padding;  ///< bool [B, N], true behind a sample's end; undefined where all are equally long
  torch::Tensor labels;   ///< int64 [B, P], Example::kNoLabel where nothing is asked; undefined: there are no classes
  torch::Tensor targets;  ///< float [B, P, values], NaN where nothing is asked; undefined: there are no values

  /// Tokens, vectors or patches of a sample.
  int64_t positions(const tasks::Face& face) const;
  /// Places in [0, B P) where something is asked: int64 [R].
  torch::Tensor asked() const;
};

/// Samples [first, first + size) of a split.
TaskBatch task_batch(const tasks::Task& task, tasks::Split split, uint64_t first, int64_t size);

}  // namespace heed::train
