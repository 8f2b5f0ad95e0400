#include "cli/probe.h"

namespace heed::cli {

void add_probe(CLI::App& app) {
  auto* command = app.add_subcommand("probe", "look into a checkpoint: what its heads do");
  command->require_subcommand(1);
  add_probe_heads(*command);
  add_probe_duo(*command);
  add_probe_moa(*command);
  add_probe_minference(*command);
  add_probe_sinks(*command);
  add_probe_keys(*command);
  add_probe_picture(*command);
  add_probe_features(*command);
}

}  // namespace heed::cli
