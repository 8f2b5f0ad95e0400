#include "heed/bench/compare_tasks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/error.h"
#include "support/xml_check.h"

namespace heed::bench::compare_tasks_test {
namespace {

TaskCompareOptions small_options(std::vector<std::string> mixers) {
  TaskCompareOptions o;
  o.task = "copy";
  o.task_parameters = {{"length", 6}};
  o.mixers = std::move(mixers);
  o.model.dim = 32;
  o.model.heads = 2;
  o.model.hidden = 64;
  o.training.steps = 3;
  o.training.batch = 4;
  o.samples = 8;
  return o;
}

TEST(CompareTasks, ModelsHaveEquallyManyParameters) {
  auto o = small_options({"dense", "gla", "deltanet+sliding_window", "mamba2"});  // all of them with a step
  o.model.settings["mamba2"] = {{"state_dim", 16}, {"head_dim", 16}};
  o.seeds = {0, 1};
  int64_t done = 0;
  const auto c = compare_tasks(o, [&](int64_t at, int64_t total, const std::string&) {
    EXPECT_EQ(at, ++done);
    EXPECT_EQ(total, 4 * 2 * 3);
  });
  ASSERT_EQ(c.rows.size(), 4u);
  const int64_t unit = 3 * o.model.dim * o.model.layers;  // one channel of every channel mixer
  for (const auto& row : c.rows) {
    EXPECT_TRUE(row.skipped.empty()) << row.mixer << ": " << row.skipped;
    EXPECT_NEAR(double(row.parameters), double(c.rows[0].parameters), double(unit)) << row.mixer;
    EXPECT_EQ(row.runs.size(), 2u);
    EXPECT_GT(row.tokens_per_second(), 0);
    EXPECT_GT(row.state_bytes.value_or(0), 0) << row.mixer;
  }
  for (size_t i = 1; i < c.rows.size(); ++i) EXPECT_GE(c.rows[i - 1].mean(), c.rows[i].mean());
  const auto json = to_json(c);
  EXPECT_EQ(json["results"].size(), 4u);
  EXPECT_EQ(json["results"][0]["seeds"].size(), 2u);
  EXPECT_NE(task_table(c).find("deltanet+sliding_window"), std::string::npos);
}

TEST(CompareTasks, WhatCannotLearnIsSkippedAndUnknownNamesAreErrors) {
  const auto c = compare_tasks(small_options({"dense", "rala"}));
  EXPECT_FALSE(c.rows.back().skipped.empty());
  EXPECT_EQ(c.rows.back().mixer, "rala");
  EXPECT_THROW(compare_tasks(small_options({"dense", "dnse"})), Error);
  EXPECT_THROW(compare_tasks(small_options({})), Error);
}

// An error is better when it is small.
TEST(CompareTasks, TheBestComesFirstByAnyMetric) {
  auto o = small_options({"aaren", "positional_attention", "mamba"});
  o.task = "algo";
  o.task_parameters = {{"function", "min"}};
  o.beyond = {{{"scale", 4}}, {{"numbers", 20}}};
  o.training.steps = 30;
  const auto c = compare_tasks(o);
  ASSERT_EQ(c.rows.size(), 3u);
  for (size_t i = 1; i < 3; ++i) EXPECT_LE(c.rows[i - 1].mean(), c.rows[i].mean());
  for (const auto& row : c.rows) {
    EXPECT_EQ(row.causal, row.mixer == "aaren");
    EXPECT_EQ(row.state_bytes.has_value(), row.causal) << row.mixer;
    EXPECT_TRUE(std::isfinite(row.mean_beyond(0)));
    EXPECT_EQ(std::isnan(row.mean_beyond(1)), row.mixer == "positional_attention");  // it has nine positions
  }
  const auto table = task_table(c);
  EXPECT_NE(table.find("scale=4"), std::string::npos);
  EXPECT_NE(table.find("mean squared error"), std::string::npos);
  const auto json = to_json(c);
  EXPECT_EQ(json["metric"], "squared_error");
  EXPECT_EQ(json["results"][0]["seeds"][0]["losses"].size(), 30u);
  EXPECT_NO_THROW(nlohmann::json::parse(json.dump()));
}

// Speed, state, losses, places: what there are figures for.
TEST(CompareTasks, ThePageShowsWhatWasMeasured) {
  const auto pictures = [](const TaskComparison& c) {
    const auto html = task_html(c);
    EXPECT_EQ(testing::xml_complaint(html.substr(html.find("<html")), {"meta"}), "");
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_EQ(html.find("nan"), std::string::npos);
    int count = 0;
    for (auto at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1)) ++count;
    return count;
  };
  auto o = small_options({"dense", "gla", "rala"});
  o.seeds = {0, 1};
  EXPECT_EQ(pictures(compare_tasks(o)), 4);
  o.task = "hawkes";
  o.task_parameters = {{"events", 12}};
  o.beyond = {{{"events", 24}}};
  EXPECT_EQ(pictures(compare_tasks(o)), 4);
  o.task = "digits";
  o.task_parameters = nlohmann::json::object();
  o.beyond.clear();
  EXPECT_EQ(pictures(compare_tasks(o)), 2);  // no state, one answer
}

TEST(CompareTasks, ABudgetDecidesTheSteps) {
  auto o = small_options({"dense"});
  o.budget_minutes = 1e-9;
  EXPECT_EQ(compare_tasks(o).options.training.steps, 10);
}

}  // namespace
}  // namespace heed::bench::compare_tasks_test
