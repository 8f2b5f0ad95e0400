// --intervention and --intervention-set: options that every command which runs a checkpoint on a text shares.
#pragma once

#include <string>
#include <vector>

#include "cli/commands.h"
#include "heed/error.h"
#include "heed/steer/intervention.h"

namespace heed::cli {

struct InterventionOptions {
  std::string name;
  std::vector<std::string> settings;
};

inline void add_intervention(CLI::App& command, InterventionOptions& options) {
  command.add_option("--intervention", options.name,
                     "change of attention of `heed list --kind intervention`, or a file {\"intervention\", "
                     "\"settings\"}; goes with the full cache");
  command.add_option("--intervention-set", options.settings, "settings of the intervention, key=value");
}

/// Caches of the intervention where one is asked for, else of the policy.
inline cache::Policy caches_of(const cache::PolicyChoice& policy, const InterventionOptions& options,
                               const cache::ModelShape& shape) {
  require(!options.name.empty() || options.settings.empty(), "--intervention-set goes with --intervention");
  if (options.name.empty()) return policy.make(shape);
  require(policy.name == "full" && policy.settings.empty(),
          "--intervention {}: it goes with the exact full cache, not with policy {} {}", options.name, policy.name,
          policy.settings.dump());
  auto choice = steer::InterventionChoice::parse(options.name);
  choice.settings.update(parse_settings(options.settings));
  return choice.make(shape);
}

}  // namespace heed::cli
