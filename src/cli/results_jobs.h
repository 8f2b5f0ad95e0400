// Experiments of a page, several at once: each is a run of this program with a part of the threads.
#pragma once

#include <functional>
#include <vector>

#include "heed/results/page.h"

namespace heed::cli {

struct JobsRun {
  std::string page;
  std::vector<const results::Experiment*> experiments;
  int jobs = 2, threads = 1;  ///< at once; of each
};

/// Runs the experiments into the page, those that took longest before first. `found` is called after every one. Throws
/// heed::Error of the first that fails, after which those under way are ended.
void run_jobs(const JobsRun& run, results::ResultsPage& page,
              const std::function<void(const results::Experiment&)>& found);

}  // namespace heed::cli
