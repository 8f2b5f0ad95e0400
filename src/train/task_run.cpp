#include "heed/train/task_run.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"

namespace heed::train {
namespace {

constexpr int64_t kCurvePoints = 50;

/// Means of losses over equal spans of steps.
class LossCurve {
 public:
  explicit LossCurve(int64_t steps) : span_(std::max<int64_t>(1, (steps + kCurvePoints - 1) / kCurvePoints)) {}

  void add(int64_t step, double loss) {
    sum_ += loss;
    if (++count_ < span_) return;
    points.emplace_back(step + 1, sum_ / double(count_));
    sum_ = 0, count_ = 0;
  }
  std::vector<std::pair<int64_t, double>> points;

 private:
  int64_t span_, count_ = 0;
  double sum_ = 0;
};

double score_or_nan(TaskModel& model, const tasks::Task& task, int64_t samples) {
  try {
    return score_task(model, task, tasks::Split::test, samples).score;
  } catch (const Error&) {
    return std::nan("");
  }
}

}  // namespace

TaskRun run_task(TaskModel& model, const tasks::Task& task, const TaskTrainOptions& options, int64_t samples,
                 const std::vector<std::unique_ptr<tasks::Task>>& beyond,
                 const std::function<bool(const TaskStep&)>& report) {
  TaskRun run;
  LossCurve curve(options.steps);
  run.tokens_per_second = train_task(model, task, options, [&](const TaskStep& step) {
    curve.add(step.step, step.loss);
    return !report || report(step);
  });
  run.losses = std::move(curve.points);
  run.score = score_task(model, task, tasks::Split::test, samples);
  for (const auto& other : beyond) run.beyond.push_back(score_or_nan(model, *other, samples));
  return run;
}

std::vector<std::unique_ptr<tasks::Task>> tasks_beyond(const std::string& task, const nlohmann::json& parameters,
                                                       const std::vector<nlohmann::json>& changes) {
  std::vector<std::unique_ptr<tasks::Task>> result;
  for (const auto& change : changes) {
    auto changed = parameters.is_null() ? nlohmann::json::object() : parameters;
    changed.update(change);
    result.push_back(tasks::make_task(task, changed));
  }
  return result;
}

}  // namespace heed::train
