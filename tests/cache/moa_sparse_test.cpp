// The card's facts of moa_sparse as a policy: which pairs each head reads, in the prompt and in steps.
#include <gtest/gtest.h>

#include "cache/layer_driver.h"
#include "heed/cache/moa_rule.h"
#include "heed/checkpoint/head_table.h"
#include "heed/error.h"
#include "support/temporary_directory.h"

namespace heed::cache::moa_sparse_test {
namespace {

using nlohmann::json;
using testing::Read;

constexpr double kSame = 1e-5;
constexpr int64_t kBlock = 8;

/// Tokens that a query sees: the first block, and `band` blocks that end with its own.
std::vector<int64_t> seen_by(int64_t query, int64_t band) {
  std::vector<int64_t> keys;
  for (int64_t j = 0; j <= query; ++j)
    if (j < kBlock || query / kBlock - j / kBlock < band) keys.push_back(j);
  return keys;
}

TEST(MoaRule, BandsGrowWithTheText) {
  EXPECT_EQ((MoaRule{0, 1}.band(4096)), 64);
  EXPECT_EQ((MoaRule{-1024, 0.5}.band(4096)), 16);
  EXPECT_EQ((MoaRule{-1024, 0.5}.band(8192)), 48);
  EXPECT_EQ((MoaRule{-1024, 0.25}.band(4096)), 1);
  EXPECT_EQ((MoaRule{100, 0}.band(123456)), 1);
  EXPECT_EQ((MoaRule{128, 0}.band(123456)), 2);
}

TEST(MoaRule, VisibleBlocksAreThoseOfTheMask) {
  for (const int64_t blocks : {1, 2, 7, 12})
    for (int64_t band = 1; band <= blocks + 2; ++band) {
      int64_t count = 0;
      for (int64_t i = 0; i < blocks; ++i)
        for (int64_t j = 0; j <= i; ++j) count += j == 0 || i - j < band;
      EXPECT_EQ(visible_blocks(blocks, band), count) << blocks << " " << band;
    }
  EXPECT_EQ(causal_blocks(12), visible_blocks(12, 12));
}

TEST(MoaSparse, ReadsTheFirstBlockAndItsBand) {
  const int64_t prompt = 75, length = prompt + 20;
  const json rules = {{{{"a", 24}, {"b", 0}}, {{"a", -15}, {"b", 0.5}}}};
  const std::vector<int64_t> bands{3, 4};  // floor((-15 + 95 / 2) / 8)
  const auto text = testing::random_text(2, 4, 2, length, 61);
  for (const int64_t chunk : {75, 1, 7, 32}) {
    auto policy = make_policy("moa_sparse", {{"rules", rules}, {"block", kBlock}}, shape_of(text))({});
    policy->reserve(length);
    const auto got = testing::drive(*policy, text, prompt, chunk);
    double worst = 0;
    int64_t attended = 0, visited = 0, held = 0;
    for (int64_t h = 0; h < 4; ++h) {
      for (int64_t i = 0; i < length; ++i) {
        const auto keys = seen_by(i, bands[size_t(h / 2)]);
        (i < prompt ? visited : attended) += int64_t(keys.size()) * (i < prompt ? 2 : h % 2 == 0 ? 2 : 0);
        for (int64_t b = 0; b < 2; ++b) {
          const auto want = testing::attend_reference(text, b, h, i, Read::absolute(keys, i)).out;
          worst = std::max(worst, (got[b][h][i] - want).abs().max().item<double>());
        }
      }
      held += h % 2 == 0 ? 2 * int64_t(seen_by(length - 1, bands[size_t(h / 2)]).size()) : 0;
    }
    EXPECT_LE(worst, kSame) << "chunk " << chunk;
    EXPECT_EQ(policy->reads().attended, attended);
    EXPECT_EQ(policy->reads().prompt_pairs, visited);
    EXPECT_EQ(policy->reads().prompt_visible, 2 * 4 * prompt * (prompt + 1) / 2);
    int64_t slots = 0;
    for (int64_t r = 0; r < policy->kv().rows(); ++r) slots += policy->kv().length(r);
    // The next token is the first of no block, so what the last one saw is what is held.
    EXPECT_EQ(slots, held);
  }
}

TEST(MoaSparse, RulesComeFromAFileOrTheSettings) {
  const auto text = testing::random_text(1, 4, 2, 60, 62);
  const TemporaryDirectory folder;
  checkpoint::HeadTable table("moa", checkpoint::HeadTable::Axis::kv, 1, 2);
  table.set(0, 0, {{"a", 16}, {"b", 0.0}});
  table.set(0, 1, {{"a", 0}, {"b", 1.0}});
  table.save(folder / "moa.json");
  const auto run = [&](json settings) {
    settings["block"] = kBlock;
    auto policy = make_policy("moa_sparse", settings, shape_of(text))({});
    policy->reserve(60);
    return testing::drive(*policy, text, 50, 16);
  };
  const auto from_file = run({{"heads", (folder / "moa.json").string()}});
  EXPECT_TRUE(torch::equal(from_file, run({{"rules", table.to_json()["values"]}})));
  EXPECT_FALSE(torch::equal(from_file, run({{"rule", {{"a", 16}, {"b", 0}}}})));
}

TEST(MoaSparse, OtherRulesAreRefused) {
  const auto shape = shape_of(testing::random_text(1, 4, 2, 8, 63));
  const auto make = [&](const json& settings) { make_policy("moa_sparse", settings, shape); };
  const json rule{{"a", 8}, {"b", 0}};
  EXPECT_THROW(make(json::object()), Error);
  EXPECT_THROW(make({{"rule", rule}, {"rules", {{rule, rule}}}}), Error);
  EXPECT_THROW(make({{"rules", {{rule}}}}), Error);
  EXPECT_THROW(make({{"rules", {{1, 2}}}}), Error);
  EXPECT_THROW(make({{"rule", {{"a", 0.5}, {"b", 0}}}}), Error);
  EXPECT_THROW(make({{"rule", {{"a", 8}, {"b", 1.5}}}}), Error);
  EXPECT_THROW(make({{"rule", {{"a", 8}}}}), Error);
  EXPECT_THROW(make({{"rule", 7}}), Error);
  EXPECT_THROW(make({{"heads", "/nonexistent.json"}}), Error);
}

}  // namespace
}  // namespace heed::cache::moa_sparse_test
