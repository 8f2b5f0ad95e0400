// A model learns a task with known answers, and is measured by it.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "heed/train/task_model.h"

namespace heed::train {

struct TaskTrainOptions {
  int64_t steps = 1000, batch = 32;
  double learning_rate = 1e-3;
  int64_t warmup = 50;
  double weight_decay = 0.1, clip = 1.0;
  uint64_t seed = 0;  ///< which samples; the weights are the caller's
  /// Share of the steps, the last ones, in which layers that draw their keys see all (heed/mixers/subsampling.h).
  double dense_end = 0.1;
};

/// A step just done.
struct TaskStep {
  int64_t step = 0;
  double loss = 0;
  double tokens_per_second = 0;  ///< positions, since the first step
};

/// The mean loss of what is asked, AdamW, warm-up and cosine. `report` hears every step and returns false to stop.
/// Returns positions per second. Throws heed::Error when the loss is no number any more.
double train_task(TaskModel& model, const tasks::Task& task, const TaskTrainOptions& options,
                  const std::function<bool(const TaskStep&)>& report = {});

struct TaskScore {
  double score = 0;  ///< by the metric of the task's face
  double loss = 0;   ///< mean over what is asked, as training has it
  /// More of the same answers: samples (share of samples without an error), absolute_error, mark_accuracy, ...
  std::vector<std::pair<std::string, double>> details;
  /// The score of the answers at each place of a sample, places without any left out.
  std::vector<std::pair<int64_t, double>> places;

  /// A detail by name; NaN where there is none.
  double detail(const std::string& name) const;
};

/// On `samples` samples of a split, or all that it has.
TaskScore score_task(TaskModel& model, const tasks::Task& task, tasks::Split split, int64_t samples,
                     int64_t batch = 32);

}  // namespace heed::train
