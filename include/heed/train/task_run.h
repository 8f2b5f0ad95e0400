// One training of one model on a task, from the first step to what it scores.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/train/task_trainer.h"

namespace heed::train {

struct TaskRun {
  TaskScore score;             ///< on the test split
  std::vector<double> beyond;  ///< scores of other forms of the task; NaN where the model refuses their samples
  std::vector<std::pair<int64_t, double>> losses;  ///< steps done, and the mean training loss of the span up to there
  double tokens_per_second = 0;                    ///< of training
};

/// Trains `model` and tests it on `samples` samples of the task and of each task in `beyond`.
TaskRun run_task(TaskModel& model, const tasks::Task& task, const TaskTrainOptions& options, int64_t samples,
                 const std::vector<std::unique_ptr<tasks::Task>>& beyond = {},
                 const std::function<bool(const TaskStep&)>& report = {});

/// The task under changes of its parameters, one a change: longer samples, larger numbers. Throws heed::Error for a
/// parameter that the task does not have.
std::vector<std::unique_ptr<tasks::Task>> tasks_beyond(const std::string& task, const nlohmann::json& parameters,
                                                       const std::vector<nlohmann::json>& changes);

}  // namespace heed::train
