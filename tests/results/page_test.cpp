// Findings survive being written and read; claims say what seeds say.
#include "heed/results/page.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "heed/error.h"
#include "heed/nn/token_reducer.h"
#include "heed/registry.h"
#include "support/temporary_directory.h"

namespace heed::results::page_test {
namespace {

Experiment made(const Experiment& like) {
  auto experiment = like;
  experiment.run = [](const Report& report) {
    report(0.5, "half");
    return Finding{"Two seeds.",
                   {{"Scores", {"mixer", "score"}, {{"a", "1"}, {"b", "0.5"}}}},
                   {exceeds({"a", {0.9, 1.0}}, {"b", {0.4, 0.6}}), exceeds({"b", {0.4, 0.6}}, {"a", {0.9, 1.0}})}};
  };
  return experiment;
}

TEST(ResultsClaims, SeedsDecide) {
  const Figure high{"high", {0.9, 1.0}}, low{"low", {0.4, 0.6}}, wide{"wide", {0.5, 0.92}}, near{"near", {0.89, 0.999}};
  EXPECT_EQ(exceeds(high, low).outcome, Outcome::came_out);
  EXPECT_EQ(exceeds(high, wide).outcome, Outcome::on_the_mean);
  EXPECT_EQ(exceeds(high, near).outcome, Outcome::undecided);
  EXPECT_EQ(exceeds(near, high).outcome, Outcome::undecided);
  EXPECT_EQ(exceeds({"one", {2.005}}, {"another", {2}}).outcome, Outcome::undecided);
  EXPECT_EQ(exceeds({"one", {2.02}}, {"another", {2}}).outcome, Outcome::came_out);
  EXPECT_EQ(exceeds(low, high).outcome, Outcome::did_not);
  EXPECT_EQ(exceeds(high, low, 1.4).outcome, Outcome::came_out);
  EXPECT_EQ(exceeds(high, low, 1.55).outcome, Outcome::on_the_mean);
  EXPECT_EQ(exceeds(high, low, 2.5).outcome, Outcome::did_not);
  EXPECT_EQ(reaches(low, high, 0.6).outcome, Outcome::came_out);
  EXPECT_EQ(reaches(wide, high, 0.48).outcome, Outcome::on_the_mean);
  EXPECT_EQ(reaches(wide, high, 0.3).outcome, Outcome::undecided);
  EXPECT_EQ(reaches(low, high, 0.1).outcome, Outcome::did_not);
  // A training that diverged is no evidence for anything.
  EXPECT_EQ(exceeds(high, {"none", {std::nan("")}}).outcome, Outcome::did_not);
  EXPECT_EQ(high.text(), "0.95 (0.9 to 1)");
}

TEST(ResultsPageTest, IsReadAsItWasWritten) {
  const TemporaryDirectory directory;
  const auto& first = experiments("linear").front();
  ResultsPage written("linear");
  const auto& entry = written.run(made(first), [](double, const std::string&) {});
  EXPECT_EQ(entry.finding.claims.size(), 2u);
  written.save(directory.path());
  ResultsPage read("linear");
  read.load(directory.path());
  EXPECT_EQ(read.to_json(), written.to_json());
  EXPECT_EQ(read.to_json().size(), 1u);

  const auto page = slurp(directory.path() / "linear.md");
  for (const auto* words : {"| a | 1 |", "a above b: **came out** (0.95 (0.9 to 1) against 0.5 (0.4 to 0.6))",
                            "b above a: **did not come out**", "1 of 2", "not run"})
    EXPECT_NE(page.find(words), std::string::npos) << words << "\n" << page;
}

TEST(ResultsPageTest, NamesOfExperimentsAreOnce) {
  for (const auto& page : pages()) {
    std::set<std::string> names;
    for (const auto& experiment : experiments(page)) {
      EXPECT_TRUE(names.insert(experiment.name).second) << experiment.name;
      EXPECT_FALSE(experiment.mechanisms.empty()) << experiment.name;
    }
  }
}

TEST(ResultsPageTest, MechanismsHaveExperiments) {
  // What others are compared with.
  const std::set<std::string> baselines{"base_conv",
                                        "gru",
                                        "lstm",
                                        "linear_attention",
                                        "agent_sd",
                                        "convolution",
                                        "mlp_mixer",
                                        "squeeze_excitation",
                                        "coordinate_attention"};
  std::set<std::string> tried;
  for (const auto& page : pages())
    for (const auto& experiment : experiments(page))
      tried.insert(experiment.mechanisms.begin(), experiment.mechanisms.end());
  for (const auto& rows : {mixer_rows(), nn::reducer_rows()})
    for (const auto& row : rows) {
      if (row.family != "sparse_and_vision" && row.family != "linear_and_recurrent") continue;
      EXPECT_TRUE(tried.count(row.name) || baselines.count(row.name)) << row.name;
    }
}

TEST(ResultsPageTest, BadInputIsNamed) {
  EXPECT_THROW(ResultsPage("lineal"), Error);
  const TemporaryDirectory directory;
  spill(directory / "linear.json", R"({"recall": {"setup": 1}})");
  ResultsPage page("linear");
  EXPECT_THROW(page.load(directory.path()), Error);
}

}  // namespace
}  // namespace heed::results::page_test
