// Suites: tasks that are run together and reported side by side.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/registry.h"

namespace heed::tasks {

struct Suite {
  struct Member {
    std::string label, task;  ///< a text task with the parameter max_tokens
    nlohmann::json parameters;
  };
  RegistryRow row;
  std::vector<Member> members;
};

/// By name; throws heed::Error for an unknown one.
const Suite& suite(std::string_view name);
/// The members' parameters with `settings` put over those that a member has; throws heed::Error for a setting that no
/// member has.
std::vector<nlohmann::json> settings_of(const Suite& suite, const nlohmann::json& settings);

std::span<const RegistryRow> suite_rows();

}  // namespace heed::tasks
