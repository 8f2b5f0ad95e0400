// --policy, --kv and --policy-set: options that every command with a cache shares.
#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"
#include "heed/cache/policy.h"

namespace heed::cli {

constexpr const char* kKvHelp =
    "keys and values after the prompt: exact, int8, int4, kivi2 or kivi2_token (default: what the policy says)";

inline void add_policy(CLI::App& command, std::string& policy, std::string& kv, std::vector<std::string>& settings,
                       const char* settings_option = "--set") {
  command.add_option("--policy", policy,
                     "cache policy of `heed list --kind policy`, or the file that compare --save-policy wrote");
  command.add_option("--kv", kv, kKvHelp);
  command.add_option(settings_option, settings, "settings of the policy, key=value");
}

/// Settings given here go before those of a file.
inline cache::PolicyChoice policy_choice(const std::string& policy, const std::string& kv,
                                         const std::vector<std::string>& settings) {
  auto choice = cache::PolicyChoice::parse(policy);
  if (!kv.empty()) choice.settings["kv"] = kv;
  choice.settings.update(parse_settings(settings));
  return choice;
}

}  // namespace heed::cli
