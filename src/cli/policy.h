// --policy and --policy-set: options that every command with a cache shares.
#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"
#include "heed/cache/policy.h"

namespace heed::cli {

inline void add_policy(CLI::App& command, std::string& policy, std::vector<std::string>& settings,
                       const char* settings_option = "--set") {
  command.add_option("--policy", policy,
                     "cache policy of `heed list --kind policy`, or the file that compare --save-policy wrote");
  command.add_option(settings_option, settings, "settings of the policy, key=value");
}

/// Settings given here go before those of a file.
inline cache::PolicyChoice policy_choice(const std::string& policy, const std::vector<std::string>& settings) {
  auto choice = cache::PolicyChoice::parse(policy);
  choice.settings.update(parse_settings(settings));
  return choice;
}

}  // namespace heed::cli
