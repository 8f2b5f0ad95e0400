#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include "cli/commands.h"
#include "cli/results_jobs.h"
#include "heed/error.h"
#include "heed/names.h"
#include "heed/progress.h"
#include "heed/results/page.h"

namespace heed::cli {
namespace {

struct Options {
  Common common;
  std::string page, out = "docs/results";
  std::vector<std::string> only;
  int jobs = 0;  ///< 0: one a thread
  bool list = false;
};

std::vector<const results::Experiment*> chosen(const Options& o) {
  std::vector<const results::Experiment*> experiments;
  std::vector<std::string> names;
  for (const auto& experiment : results::experiments(o.page)) {
    names.push_back(experiment.name);
    if (o.only.empty() || std::find(o.only.begin(), o.only.end(), experiment.name) != o.only.end())
      experiments.push_back(&experiment);
  }
  for (const auto& name : o.only)
    require(std::find(names.begin(), names.end(), name) != names.end(), "unknown experiment {}: {}", name,
            suggest(name, names));
  return experiments;
}

void print(const results::Experiment& experiment, const results::Entry& entry) {
  fmt::print("{} ({:.0f} s)\n", experiment.title, entry.seconds);
  for (const auto& claim : entry.finding.claims)
    fmt::print("  {}: {} ({})\n", claim.text, to_string(claim.outcome), claim.figures);
  std::fflush(stdout);
}

void run(const Options& o) {
  apply(o.common);
  const auto experiments = chosen(o);
  if (o.list) {
    for (const auto* e : experiments) fmt::print("{:<20} {} ({})\n", e->name, e->title, fmt::join(e->mechanisms, ", "));
    return;
  }
  results::ResultsPage page(o.page);
  page.load(o.out);
  const auto found = [&](const results::Experiment& experiment) {
    page.save(o.out);  // what is found stays found when a later experiment fails
    if (!o.common.json_given) print(experiment, *page.find(experiment.name));
  };
  const int threads = torch::get_num_threads();
  JobsRun beside{o.page, {}, o.jobs > 0 ? o.jobs : threads};
  std::vector<const results::Experiment*> alone;
  for (const auto* experiment : experiments)
    (experiment->timed || beside.jobs == 1 ? alone : beside.experiments).push_back(experiment);
  if (beside.experiments.size() == 1) alone = experiments, beside.experiments.clear();
  for (const auto* experiment : alone) {
    {
      Progress bar(experiment->name, 1000);
      page.run(*experiment,
               [&](double share, const std::string& next) { bar.update(static_cast<int64_t>(1000 * share), next); });
    }
    found(*experiment);
  }
  beside.threads = std::max(threads / beside.jobs, 1);
  if (!beside.experiments.empty()) run_jobs(beside, page, found);
  write_json(o.common, page.to_json().dump(1));
}

}  // namespace

void add_results(CLI::App& app) {
  auto o = std::make_shared<Options>();
  auto* command = app.add_subcommand(
      "results",
      "try what the papers claim, at small scale, and write what came out as a page\nexample: heed results linear");
  command->add_option("page", o->page, fmt::format("which page: {}", fmt::join(results::pages(), ", ")))->required();
  command->add_option("--only", o->only, "experiments to run again (default: all of the page)")->delimiter(',');
  command
      ->add_option("--out", o->out,
                   "folder of PAGE.md and PAGE.json, where other experiments are kept (default docs/results)")
      ->check(writable_folder());
  command
      ->add_option(
          "--jobs", o->jobs,
          "experiments at once, each with its part of the threads; those that compare times run alone (default: "
          "as many as threads)")
      ->check(whole(1, 256));
  command->add_flag("--list", o->list, "name the experiments and run nothing");
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
