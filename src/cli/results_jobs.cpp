#include "cli/results_jobs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include "cli/child_process.h"
#include "heed/error.h"
#include "heed/progress.h"

namespace heed::cli {
namespace {

/// A folder of its own, gone when this is.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "heed-results-XXXXXX").string();
    require(mkdtemp(name.data()) != nullptr, "{}: {}", name, std::strerror(errno));
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct Job {
  const results::Experiment* experiment;
  std::filesystem::path folder;
  ChildProcess process;
};

Job start(const JobsRun& run, const results::Experiment* experiment, const std::filesystem::path& scratch) {
  const auto folder = scratch / experiment->name;
  return {experiment, folder,
          ChildProcess({"results", run.page, "--only", experiment->name, "--out", folder.string(), "--jobs", "1",
                        "--threads", std::to_string(run.threads)},
                       scratch / (experiment->name + ".log"))};
}

}  // namespace

void run_jobs(const JobsRun& run, results::ResultsPage& page,
              const std::function<void(const results::Experiment&)>& found) {
  auto waiting = run.experiments;
  const auto seconds = [&](const results::Experiment* experiment) {
    const auto* entry = page.find(experiment->name);
    return entry ? entry->seconds : std::numeric_limits<double>::infinity();
  };
  std::stable_sort(waiting.begin(), waiting.end(),
                   [&](const auto* a, const auto* b) { return seconds(a) > seconds(b); });
  const ScratchFolder scratch;
  Progress bar(run.page, static_cast<int64_t>(waiting.size()));
  std::vector<Job> jobs;
  int64_t done = 0;
  for (auto next = waiting.begin(); next != waiting.end() || !jobs.empty();) {
    while (next != waiting.end() && static_cast<int>(jobs.size()) < run.jobs)
      jobs.push_back(start(run, *next++, scratch.path()));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    for (auto job = jobs.begin(); job != jobs.end();) {
      const auto& experiment = *job->experiment;
      bool finished = false;
      try {
        finished = job->process.finished();
      } catch (const Error& error) {
        fail("{}: {}", experiment.name, error.what());
      }
      if (!finished) {
        ++job;
        continue;
      }
      page.load(job->folder);
      found(experiment);
      job = jobs.erase(job);
      ++done;
    }
    std::vector<std::string> names;
    for (const auto& job : jobs) names.push_back(job.experiment->name);
    bar.update(done, fmt::format("{}", fmt::join(names, ", ")));
  }
}

}  // namespace heed::cli
