#include "heed/bench/compare_tasks.h"

#include <gtest/gtest.h>

#include "heed/error.h"

namespace heed::bench {
namespace {

TaskCompareOptions small_options(std::vector<std::string> mixers) {
  TaskCompareOptions o;
  o.task = "copy";
  o.task_parameters = {{"length", 6}};
  o.mixers = std::move(mixers);
  o.dim = 32;
  o.heads = 2;
  o.hidden = 64;
  o.training.steps = 3;
  o.training.batch = 4;
  o.samples = 8;
  return o;
}

TEST(CompareTasks, ModelsHaveEquallyManyParameters) {
  auto o = small_options({"dense", "gla", "deltanet+sliding_window", "mamba2"});  // all of them with a step
  o.settings["mamba2"] = {{"state_dim", 16}, {"head_dim", 16}};
  o.seeds = {0, 1};
  int64_t done = 0;
  const auto c = compare_tasks(o, [&](int64_t at, int64_t total, const std::string&) {
    EXPECT_EQ(at, ++done);
    EXPECT_EQ(total, 4 * 2 * 3);
  });
  ASSERT_EQ(c.rows.size(), 4u);
  const int64_t unit = 3 * o.dim * o.layers;  // one channel of every channel mixer
  for (const auto& row : c.rows) {
    EXPECT_TRUE(row.skipped.empty()) << row.mixer << ": " << row.skipped;
    EXPECT_NEAR(double(row.parameters), double(c.rows[0].parameters), double(unit)) << row.mixer;
    EXPECT_EQ(row.scores.size(), 2u);
    EXPECT_GT(row.tokens_per_second, 0);
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

TEST(CompareTasks, ABudgetDecidesTheSteps) {
  auto o = small_options({"dense"});
  o.budget_minutes = 1e-9;
  EXPECT_EQ(compare_tasks(o).options.training.steps, 10);
}

}  // namespace
}  // namespace heed::bench
