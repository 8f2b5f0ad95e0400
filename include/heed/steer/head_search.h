// Which heads an intervention helps in: one head at a time on samples of a task.
#pragma once

#include "heed/cache/evaluate.h"
#include "heed/checkpoint/head_table.h"
#include "heed/steer/intervention.h"

namespace heed::steer {

struct HeadSearch {
  double unmodified = 0;        ///< score of the task without the intervention
  checkpoint::HeadTable gains;  ///< by query head: score with the intervention in this head alone, minus that
  double found = 0, all = 0;    ///< scores with it in all heads that gain, and in all heads that may be chosen
};

/// Scores on `samples` of the task's split valid; `found` and `all` on its split test. `settings` are the
/// intervention's, without "heads"; the gains, saved, are a value for it.
HeadSearch search_heads(const checkpoint::LanguageModel& lm, const std::string& intervention,
                        const nlohmann::json& settings, const tasks::TextTask& task, int64_t samples,
                        const cache::ProgressFunction& progress = {});

}  // namespace heed::steer
