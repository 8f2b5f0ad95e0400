// A suite of tasks over several lengths: scores, and the context that a model effectively uses.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "heed/cache/evaluate.h"
#include "heed/tasks/suite.h"

namespace heed::bench {

struct SuiteMap {
  std::string model, suite;
  cache::PolicyChoice choice;
  std::vector<int64_t> lengths;  ///< tokens
  double threshold = 0.75;       ///< of the effective context
  struct Row {
    std::string label, task;
    nlohmann::json parameters;
    double chance = 0;                                   ///< at the longest length
    std::vector<std::optional<cache::TaskScore>> cells;  ///< one a length; absent where no sample fits
    int64_t effective_context = 0;
  };
  std::vector<Row> rows;
};

/// `samples` answers of every task at every length. `settings` go to the tasks that have them. Throws heed::Error for
/// a setting that none has, and for lengths at which not one task fits.
SuiteMap suite_map(const checkpoint::LanguageModel& lm, const cache::PolicyChoice& choice, const tasks::Suite& suite,
                   const nlohmann::json& settings, const std::vector<int64_t>& lengths, int64_t samples,
                   double threshold = 0.75, const cache::ProgressFunction& progress = {});

nlohmann::ordered_json to_json(const SuiteMap& map);
std::string suite_table(const SuiteMap& map);
std::string suite_html(const SuiteMap& map);

}  // namespace heed::bench
