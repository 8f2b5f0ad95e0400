// Words and figures of a comparison on a task, for table and page.
#pragma once

#include <string>

#include "heed/bench/compare_tasks.h"

namespace heed::bench {

/// "mqar, 64 positions a sample, chance 0.004; 2 layers of 64 channels, 1000 steps of 32 samples, 3 seeds"
std::string task_line(const TaskComparison& comparison);
/// "length=128 scale=2"
std::string change_text(const nlohmann::json& change);
/// Bytes, or why there are none.
std::string state_text(const TaskRow& row);

}  // namespace heed::bench
