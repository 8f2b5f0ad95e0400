#include "heed/bench/compare_tasks.h"

#include <fmt/format.h>

#include <algorithm>

#include "heed/error.h"

namespace heed::bench {
namespace {

constexpr int64_t kTimedSteps = 5;  // of each mixer, to divide a budget by

train::TaskModelOptions options_of(const TaskCompareOptions& o, const std::string& mixer, int64_t parameters,
                                   uint64_t seed) {
  auto model = o.model;
  model.mixer = mixer;
  model.parameters = parameters;
  model.seed = seed;
  return model;
}

/// What is known of a model before it learns; the first model sets the number of parameters.
void describe(TaskRow& row, const TaskCompareOptions& o, const tasks::Task& task, const train::TaskBatch& probe,
              int64_t& parameters) {
  train::mixers_of(row.mixer);  // an unknown name is an error, not a skipped row
  try {
    const auto model = train::make_task_model(task, options_of(o, row.mixer, parameters, 0));
    {
      torch::NoGradGuard no_grad;
      model->hidden(probe);
    }
    if (parameters == 0) parameters = model->parameters();
    row.parameters = model->parameters();
    row.causal = model->causal();
    try {
      row.state_bytes = model->state_bytes(probe);
    } catch (const Error&) {
      // No step, no state.
    }
  } catch (const Error& error) {
    row.skipped = error.what();
  }
}

}  // namespace

double TaskRow::mean() const {
  double sum = 0;
  for (const auto& run : runs) sum += run.score.score;
  return runs.empty() ? 0 : sum / double(runs.size());
}

double TaskRow::spread() const {
  if (runs.empty()) return 0;
  const auto [low, high] = std::minmax_element(
      runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.score.score < b.score.score; });
  return high->score.score - low->score.score;
}

double TaskRow::tokens_per_second() const {
  double sum = 0;
  for (const auto& run : runs) sum += run.tokens_per_second;
  return runs.empty() ? 0 : sum / double(runs.size());
}

double TaskRow::mean_beyond(size_t index) const {
  double sum = 0;
  for (const auto& run : runs) sum += run.beyond.at(index) / double(runs.size());
  return sum;
}

TaskComparison compare_tasks(const TaskCompareOptions& options,
                             const std::function<void(int64_t, int64_t, const std::string&)>& progress) {
  require(!options.mixers.empty(), "no mixer is named: at least one is accepted");
  TaskComparison result;
  result.options = options;
  auto& o = result.options;
  const auto task = tasks::make_task(o.task, o.task_parameters);
  const auto beyond = train::tasks_beyond(o.task, o.task_parameters, o.beyond);
  const auto face = task->face();
  const auto probe = train::task_batch(*task, tasks::Split::valid, 0, 2);
  result.metric = face.metric;
  result.chance = task->metric_chance();
  result.ideal = task->ideal();
  result.length = probe.positions(face);

  int64_t parameters = 0;
  for (const auto& mixer : o.mixers) {
    auto& row = result.rows.emplace_back();
    row.mixer = mixer;
    describe(row, o, *task, probe, parameters);
  }
  const auto learners =
      std::count_if(result.rows.begin(), result.rows.end(), [](const auto& r) { return r.skipped.empty(); });
  require(learners > 0, "no mixer can learn {}: {}", o.task, result.rows.front().skipped);
  if (o.budget_minutes > 0) {
    double seconds_a_step = 0;
    for (const auto& row : result.rows) {
      if (!row.skipped.empty()) continue;
      const auto model = train::make_task_model(*task, options_of(o, row.mixer, parameters, 0));
      auto few = o.training;
      few.steps = kTimedSteps;
      seconds_a_step += double(few.batch * result.length) / train::train_task(*model, *task, few);
    }
    const double steps = o.budget_minutes * 60 / (seconds_a_step * double(o.seeds.size()));
    o.training.steps = std::max<int64_t>(10, static_cast<int64_t>(steps));
  }

  int64_t done = 0;
  const int64_t total = learners * static_cast<int64_t>(o.seeds.size()) * o.training.steps;
  for (auto& row : result.rows) {
    if (!row.skipped.empty()) continue;
    for (const auto seed : o.seeds) {
      const auto model = train::make_task_model(*task, options_of(o, row.mixer, parameters, seed));
      auto training = o.training;
      training.seed = seed;
      try {
        row.runs.push_back(
            train::run_task(*model, *task, training, o.samples, beyond, [&](const train::TaskStep& step) {
              if (progress) progress(++done, total, fmt::format("{} seed {} loss {:.3f}", row.mixer, seed, step.loss));
              return true;
            }));
      } catch (const Error& error) {
        row.skipped = error.what();  // it diverged
        row.runs.clear();
        break;
      }
    }
  }
  const double sign = tasks::more_is_better(result.metric) ? 1 : -1;
  std::stable_sort(result.rows.begin(), result.rows.end(), [sign](const auto& a, const auto& b) {
    return a.runs.empty() != b.runs.empty() ? b.runs.empty() : sign * a.mean() > sign * b.mean();
  });
  return result;
}

}  // namespace heed::bench
