// What the commands under `heed probe` share. One file a command, joined by probe.cpp.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "heed/progress.h"

namespace heed::cli {

/// A bar that appears with the first report and lives in `bar`.
inline std::function<void(int64_t done, int64_t total)> progress_bar(std::unique_ptr<Progress>& bar,
                                                                     const std::string& label) {
  bar.reset();
  return [&bar, label](int64_t done, int64_t total) {
    if (!bar) bar = std::make_unique<Progress>(label, total);
    bar->update(done);
  };
}

void add_probe_heads(CLI::App& probe);
void add_probe_duo(CLI::App& probe);
void add_probe_moa(CLI::App& probe);
void add_probe_minference(CLI::App& probe);
void add_probe_sinks(CLI::App& probe);
void add_probe_keys(CLI::App& probe);
void add_probe_picture(CLI::App& probe);
void add_probe_features(CLI::App& probe);

}  // namespace heed::cli
