// What a comparison of policies decides, from figures that are given.
#include "heed/bench/compare_policies.h"

#include <gtest/gtest.h>

#include "heed/bench/measure.h"

namespace heed::bench::compare_policies_test {
namespace {

PolicyResult row(const char* name, int64_t bytes, int64_t prompt_bytes, double kl, double tokens_per_second,
                 double read) {
  PolicyResult r{{name}};
  r.cache_bytes = bytes, r.prompt_bytes = prompt_bytes;
  r.fidelity.kl = kl;
  r.tokens_per_second = tokens_per_second;
  r.read = read;
  return r;
}

/// The full cache; one that drops at once, one after the prompt, one that only reads less; and one that is worse in
/// all.
PolicyComparison four_policies() {
  PolicyComparison c;
  c.rows = {row("full", 1000, 1000, 0, 100, 64), row("streaming_llm", 100, 150, 0.5, 300, 8),
            row("snap_kv", 100, 1000, 0.1, 280, 8), row("quest", 1100, 1100, 0.01, 200, 16),
            row("worse", 1200, 1200, 0.6, 90, 64)};
  return c;
}

std::string chosen_by(const PolicyLimits& limits) {
  auto c = four_policies();
  c.options.limits = limits;
  decide(c);
  return c.chosen ? c.rows[*c.chosen].choice.name : "";
}

TEST(PolicyDecision, IsTheFewestBytesAndOfEqualsTheFewestReads) {
  EXPECT_EQ(chosen_by({}), "streaming_llm");
  auto c = four_policies();
  c.rows[2].read = 7;
  decide(c);
  EXPECT_EQ(c.chosen, std::optional<size_t>(2));
}

TEST(PolicyDecision, KeepsEveryLimit) {
  EXPECT_EQ(chosen_by({.max_kl = 0.2}), "snap_kv");
  EXPECT_EQ(chosen_by({.max_kl = 0.05}), "full");
  EXPECT_EQ(chosen_by({.max_kl = 0.05, .min_tokens_per_second = 150}), "quest");
  EXPECT_EQ(chosen_by({.min_tokens_per_second = 290}), "streaming_llm");
  EXPECT_EQ(chosen_by({.min_tokens_per_second = 1000}), "");
  // A policy that compresses the prompt held all of it before.
  EXPECT_EQ(chosen_by({.max_kl = 0.2, .max_bytes = 500}), "");
  EXPECT_EQ(chosen_by({.max_bytes = 150}), "streaming_llm");
  EXPECT_EQ(chosen_by({.max_bytes = 149}), "");
}

TEST(PolicyDecision, TheParetoFrontIsWhatNothingExcels) {
  auto c = four_policies();
  decide(c);
  std::vector<std::string> front;
  for (const auto& r : c.rows)
    if (r.pareto) front.push_back(r.choice.name);
  EXPECT_EQ(front, (std::vector<std::string>{"full", "snap_kv"}));
  // Rows that are equal do not exclude each other.
  c.rows.push_back(c.rows[2]);
  decide(c);
  EXPECT_TRUE(c.rows[2].pareto && c.rows.back().pareto);
}

TEST(PolicyDecision, ThePageDrawsTheFrontAndRingsTheChoice) {
  auto c = four_policies();
  c.options.limits.max_kl = 0.2;
  c.machine = machine_json(1, 1);
  decide(c);
  const auto page = policy_html(c);
  EXPECT_NE(page.find("class=\"front\""), std::string::npos);
  EXPECT_NE(page.find("class=\"ring\""), std::string::npos);
}

}  // namespace
}  // namespace heed::bench::compare_policies_test
