// A decoder learns a task with known answers, and is measured by it.
#pragma once

#include <torch/torch.h>

#include <functional>

#include "heed/models/decoder_lm.h"
#include "heed/tasks/task.h"

namespace heed::train {

/// int64 [B, T] each; labels are tasks::TokenSample::kNoLabel where nothing is asked. Shorter samples are filled with
/// token 0 behind their end.
struct TaskBatch {
  torch::Tensor inputs, labels;
};

/// Samples [first, first + size) of a split.
TaskBatch task_batch(const tasks::Task& task, tasks::Split split, uint64_t first, int64_t size);

struct TaskTrainOptions {
  int64_t steps = 1000, batch = 32;
  double learning_rate = 1e-3;
  int64_t warmup = 50;
  double weight_decay = 0.1, clip = 1.0;
  uint64_t seed = 0;  ///< which samples; the weights are the caller's
};

/// Cross-entropy of the labels alone, AdamW, warm-up and cosine. `report` hears the step just done and its loss, and
/// returns false to stop. Returns tokens per second.
double train_task(DecoderLm& model, const tasks::Task& task, const TaskTrainOptions& options,
                  const std::function<bool(int64_t step, double loss)>& report = {});

struct TaskScore {
  double tokens = 0;   ///< share of labels that are predicted
  double samples = 0;  ///< share of samples all of whose labels are
  double loss = 0;     ///< mean cross-entropy of labels, nats
};

/// On `samples` samples of a split.
TaskScore score_task(DecoderLm& model, const tasks::Task& task, tasks::Split split, int64_t samples,
                     int64_t batch = 32);

}  // namespace heed::train
