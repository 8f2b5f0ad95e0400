// Mechanisms side by side on a task that each learns: quality at equal parameters and steps.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "heed/train/task_trainer.h"

namespace heed::bench {

struct TaskCompareOptions {
  std::string task = "mqar";
  nlohmann::json task_parameters = nlohmann::json::object();
  std::vector<std::string> mixers;                 ///< of the registry; "a+b" puts them into layers in turn
  std::map<std::string, nlohmann::json> settings;  ///< configuration of a mixer
  int64_t layers = 2, dim = 64, heads = 4, hidden = 128;
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
  std::optional<int64_t> state_bytes;  ///< of one sequence, behind a sample; none: the mixer has no step
  double tokens_per_second = 0;
  std::vector<train::TaskScore> scores;  ///< one a seed
  double mean() const;                   ///< of the share of labels that are predicted
  double spread() const;                 ///< largest less smallest
};

struct TaskComparison {
  TaskCompareOptions options;
  double chance = 0;
  int64_t length = 0;         ///< tokens of a sample
  std::vector<TaskRow> rows;  ///< best first
};

/// Every model has as many parameters as the first one, by the width of its channel mixers, as near as a unit of width
/// allows. Throws heed::Error for an unknown task or mixer.
TaskComparison compare_tasks(const TaskCompareOptions& options,
                             const std::function<void(int64_t done, int64_t total, const std::string&)>& progress = {});

nlohmann::ordered_json to_json(const TaskComparison& comparison);
std::string task_table(const TaskComparison& comparison);

}  // namespace heed::bench
