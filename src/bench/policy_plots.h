// Pictures of a comparison of policies.
#pragma once

#include <string>
#include <vector>

#include "heed/bench/compare_policies.h"

namespace heed::bench {

/// "key=value key=value"
std::string settings_text(const nlohmann::json& settings);

/// As SVG: distance against bytes, the task's score against bytes, distance against reads, time of a step against
/// length; those for which there are figures.
std::vector<std::string> policy_plots(const PolicyComparison& comparison);

}  // namespace heed::bench
