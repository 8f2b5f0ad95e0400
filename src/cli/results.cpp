#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/commands.h"
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
    for (const auto* e : experiments) fmt::print("{:<20} {} ({})\n", e->name, e->title, fmt::join(e->cards, ", "));
    return;
  }
  results::ResultsPage page(o.page);
  page.load(o.out);
  for (const auto* experiment : experiments) {
    const auto& entry = [&]() -> const results::Entry& {
      Progress bar(experiment->name, 1000);
      return page.run(*experiment, [&](double share, const std::string& next) {
        bar.update(static_cast<int64_t>(1000 * share), next);
      });
    }();
    page.save(o.out);  // what is found stays found when a later experiment fails
    if (!o.common.json_given) print(*experiment, entry);
  }
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
  command->add_flag("--list", o->list, "name the experiments and run nothing");
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
