#include "heed/results/page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torch/torch.h>

#include <chrono>

#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"

#include "heed/version.h"

namespace heed::results {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

Outcome outcome_named(const std::string& text) {
  for (const auto outcome : {Outcome::came_out, Outcome::on_the_mean, Outcome::undecided, Outcome::did_not})
    if (text == to_string(outcome)) return outcome;
  fail("outcome {} is unknown", text);
}

ordered_json to_json(const Entry& entry) {
  auto tables = ordered_json::array(), claims = ordered_json::array();
  for (const auto& t : entry.finding.tables)
    tables.push_back({{"title", t.title}, {"columns", t.columns}, {"rows", t.rows}});
  for (const auto& c : entry.finding.claims)
    claims.push_back({{"claim", c.text}, {"outcome", to_string(c.outcome)}, {"figures", c.figures}});
  return {{"setup", entry.finding.setup}, {"tables", tables},         {"claims", claims},
          {"commit", entry.commit},       {"threads", entry.threads}, {"seconds", entry.seconds}};
}

Entry entry_of(const json& j) {
  Entry entry;
  entry.finding.setup = j.at("setup");
  for (const auto& t : j.at("tables")) entry.finding.tables.push_back({t.at("title"), t.at("columns"), t.at("rows")});
  for (const auto& c : j.at("claims"))
    entry.finding.claims.push_back({c.at("claim"), outcome_named(c.at("outcome")), c.at("figures")});
  entry.commit = j.at("commit");
  entry.threads = j.at("threads");
  entry.seconds = j.at("seconds");
  return entry;
}

std::string row_text(const std::vector<std::string>& cells) { return fmt::format("| {} |\n", fmt::join(cells, " | ")); }

std::string table_text(const Table& t) {
  std::string text = t.title.empty() ? "" : t.title + ":\n\n";
  text += row_text(t.columns) + row_text(std::vector<std::string>(t.columns.size(), "---"));
  for (const auto& row : t.rows) text += row_text(row);
  return text + "\n";
}

std::string names_text(const std::vector<std::string>& names) { return fmt::format("`{}`", fmt::join(names, "`, `")); }

/// "2 of 3", of the claims that came out, with what came out on the mean alone.
std::string tally(const Finding& finding) {
  const auto count = [&](Outcome outcome) {
    return std::count_if(finding.claims.begin(), finding.claims.end(),
                         [&](const auto& claim) { return claim.outcome == outcome; });
  };
  auto text = fmt::format("{} of {}", count(Outcome::came_out), finding.claims.size());
  if (const auto mean = count(Outcome::on_the_mean)) text += fmt::format(", {} on the mean only", mean);
  if (const auto open = count(Outcome::undecided)) text += fmt::format(", {} not decided", open);
  return text;
}

std::string section(const Experiment& experiment, const Entry& entry) {
  std::string text = fmt::format("## {}\n\n{}. Claim: {}\n\n{}\n\n", experiment.title,
                                 names_text(experiment.mechanisms), experiment.claim, entry.finding.setup);
  for (const auto& table : entry.finding.tables) text += table_text(table);
  for (const auto& claim : entry.finding.claims)
    text += fmt::format("- {}: **{}** ({})\n", claim.text, to_string(claim.outcome), claim.figures);
  return text + fmt::format("\n{:.0f} s with {} thread{}, commit {}.\n\n", entry.seconds, entry.threads,
                            entry.threads == 1 ? "" : "s", entry.commit);
}

}  // namespace

ResultsPage::ResultsPage(std::string name) : name_(std::move(name)) { experiments(name_); }

void ResultsPage::load(const std::filesystem::path& directory) {
  const auto path = directory / (name_ + ".json");
  if (!std::filesystem::exists(path)) return;
  const json file = formats::read_json_file(path);
  try {
    for (const auto& [name, entry] : file.items()) entries_[name] = entry_of(entry);
  } catch (const json::exception& error) {
    fail("{} is no file of results: {}", path.string(), error.what());
  }
}

void ResultsPage::save(const std::filesystem::path& directory) const {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  require(!error, "{}: {}", directory.string(), error.message());
  formats::write_file(directory / (name_ + ".json"), to_json().dump(1) + "\n");
  formats::write_file(directory / (name_ + ".md"), markdown());
}

const Entry& ResultsPage::run(const Experiment& experiment, const Report& report) {
  const auto begin = std::chrono::steady_clock::now();
  auto finding = experiment.run(report);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return entries_[experiment.name] = {std::move(finding), commit(), torch::get_num_threads(), seconds.count()};
}

const Entry* ResultsPage::find(const std::string& experiment) const {
  const auto found = entries_.find(experiment);
  return found == entries_.end() ? nullptr : &found->second;
}

ordered_json ResultsPage::to_json() const {
  auto all = ordered_json::object();
  for (const auto& experiment : experiments(name_))
    if (const auto found = entries_.find(experiment.name); found != entries_.end())
      all[experiment.name] = results::to_json(found->second);
  return all;
}

std::string ResultsPage::markdown() const {
  std::string overview =
                  row_text({"experiment", "mechanisms", "directions that came out"}) + row_text({"---", "---", "---"}),
              sections;
  double seconds = 0;
  for (const auto& experiment : experiments(name_)) {
    const auto found = entries_.find(experiment.name);
    overview += row_text({experiment.title, names_text(experiment.mechanisms),
                          found == entries_.end() ? "not run" : tally(found->second.finding)});
    if (found == entries_.end()) continue;
    sections += section(experiment, found->second);
    seconds += found->second.seconds;
  }
  return fmt::format(
             "# What the papers claim, at small scale: {0}\n\nMade by `heed results {0}`; its experiments add up to "
             "{1:.0f} "
             "minutes, and as many run at once as there are threads. Every experiment is small and runs on a CPU: what "
             "is looked at is the direction of a claim, not its headline figure. \"Came out\" means for every seed "
             "against every other. Means that differ by less than half of the wider range of seeds, by less than half "
             "a percent or, of one seed, by less than two standard errors of the test samples decide nothing, nor does "
             "a learner that knows no more than a guess; where a direction did not come out, the page says so. Every "
             "experiment names the commit that made it; speeds compare inside one table.\n\n{2}\n",
             name_, seconds / 60, overview) +
         sections;
}

}  // namespace heed::results
