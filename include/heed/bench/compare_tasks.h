// Mechanisms side by side on a task that each learns: quality at equal parameters and steps.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "heed/train/task_run.h"

namespace heed::bench {

struct TaskCompareOptions {
  std::string task = "mqar";
  nlohmann::json task_parameters = nlohmann::json::object();
  /// Changes of the parameters under which what was learned is tested, too: longer samples, larger numbers.
  std::vector<nlohmann::json> beyond;
  std::vector<std::string> mixers;  ///< of the registry; "a+b" puts them into layers in turn
  train::TaskModelOptions model;    ///< of all; mixer, parameters and seed are filled in
  std::vector<uint64_t> seeds{0};
  train::TaskTrainOptions training;
  double budget_minutes = 0;  ///< above 0: steps are what all runs take in so long, measured by a few of each
  int64_t samples = 256;      ///< of the test split
};

/// One mixer over its seeds.
struct TaskRow {
  std::string mixer;
  std::string skipped;  ///< why there are no figures
  int64_t parameters = 0;
  bool causal = true;                  ///< a position sees no later one
  std::optional<int64_t> state_bytes;  ///< of one sequence, behind a sample; none: the model has no step
  std::vector<train::TaskRun> runs;    ///< one a seed

  double mean() const;    ///< of the scores
  double spread() const;  ///< largest less smallest
  double tokens_per_second() const;
  /// Mean of change `index`; NaN where a run has none.
  double mean_beyond(size_t index) const;
};

struct TaskComparison {
  TaskCompareOptions options;
  tasks::Metric metric = tasks::Metric::accuracy;
  double chance = 0;
  std::optional<double> ideal;
  int64_t length = 0;         ///< positions of a sample
  std::vector<TaskRow> rows;  ///< best first
};

/// Every model has as many parameters as the first one, by the width of its channel mixers, as near as a unit of width
/// allows. Throws heed::Error for an unknown task or mixer.
TaskComparison compare_tasks(const TaskCompareOptions& options,
                             const std::function<void(int64_t done, int64_t total, const std::string&)>& progress = {});

nlohmann::ordered_json to_json(const TaskComparison& comparison);
std::string task_table(const TaskComparison& comparison);
/// A page with plots: scores against speed, state and place, losses against steps.
std::string task_html(const TaskComparison& comparison);

/// "share of the asked answers that are right", ...
std::string metric_text(tasks::Metric metric);
/// Three or four significant digits; "-" for NaN.
std::string score_text(double score);

/// {"score","loss", the details, "places": [[place, score], ...], "beyond", "losses", "tokens_per_second"}
nlohmann::ordered_json to_json(const train::TaskRun& run);

}  // namespace heed::bench
