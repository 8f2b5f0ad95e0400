// What policies are known to answer on the induction oracle, wherever the run stands.
#include "cache/oracle_induction.h"

#include <gtest/gtest.h>

namespace heed::cache::oracle_induction_test {
namespace {

using testing::OracleInduction;

constexpr int64_t kLength = 1000;
/// Places of the run among the other tokens: beginning, middle, and before the last 64.
const std::vector<int64_t> kPlaces{0, 137, 500, 850};

int64_t correct(std::string_view policy, const nlohmann::json& settings, int64_t at, int64_t chunk = 512) {
  OracleInduction oracle(policy, settings);
  return OracleInduction::correct(oracle.answer(OracleInduction::prompt(kLength, at, 31 + at), 5, chunk));
}

TEST(OracleInduction, TheFullCacheGoesOnWithTheRun) {
  for (const int64_t at : kPlaces) {
    OracleInduction oracle("full", {});
    EXPECT_EQ(OracleInduction::correct(oracle.answer(OracleInduction::prompt(kLength, at, 31 + at))), 5) << at;
    EXPECT_GT(oracle.least_probability(), 0.99) << at;
  }
}

TEST(OracleInduction, LongerPromptsAreAnsweredWithTheSharperModel) {
  OracleInduction oracle("full", {});
  EXPECT_EQ(OracleInduction::correct(oracle.answer(OracleInduction::prompt(4000, 1234, 30))), 5);
  EXPECT_GT(oracle.least_probability(), 0.99);
}

TEST(OracleInduction, SinksAndAWindowWithoutTheRunAnswerTheSink) {
  for (const char* positions : {"in_cache", "absolute"}) {
    for (const int64_t at : {137, 500}) {
      OracleInduction oracle("streaming_llm", {{"sinks", 4}, {"window", 256}, {"positions", positions}});
      EXPECT_EQ(oracle.answer(OracleInduction::prompt(kLength, at, 31 + at), 5, 64), std::vector<int64_t>(5, 0))
          << positions << " " << at;
    }
  }
  EXPECT_EQ(correct("streaming_llm", {{"sinks", 4}, {"window", 256}}, 850, 64), 5);
}

TEST(OracleInduction, H2oLetsFrequentTokensOutvoteTheNeedle) {
  // The first token is the prompt's own answer, made with everything.
  for (const int64_t at : {137, 400}) EXPECT_EQ(correct("h2o", {{"heavy", 256}, {"recent", 256}}, at), 1) << at;
}

TEST(OracleInduction, SnapKvFindsHalfThePoolingWidth) {
  for (const int64_t at : {137, 500, 850})
    for (const int64_t width : {1, 3, 5, 7, 9})
      EXPECT_EQ(correct("snap_kv", {{"window", 64}, {"capacity", 64 + 48}, {"width", width}}, at), 1 + width / 2)
          << "run at " << at << ", width " << width;
}

TEST(OracleInduction, PyramidKvIsSnapKvWithTheBudgetsOfItsLayer) {
  // The second of two layers; with beta 1 it keeps what SnapKV keeps.
  for (const int64_t width : {1, 5})
    EXPECT_EQ(correct("pyramid_kv", {{"window", 64}, {"capacity", 64 + 48}, {"width", width}, {"beta", 1}}, 500),
              1 + width / 2);
}

TEST(OracleInduction, QuestFindsTheRunsPages) {
  for (const int64_t at : kPlaces) EXPECT_EQ(correct("quest", {{"budget", 64}, {"dense_layers", 0}}, at), 5) << at;
}

TEST(OracleInduction, TokenSelectFindsTheRunWithFourTokens) {
  for (const int64_t at : kPlaces) {
    OracleInduction oracle("token_select", {{"sinks", 1}, {"window", 32}, {"budget", 4}, {"threshold", 2}});
    const auto prompt = OracleInduction::prompt(kLength, at, 31 + at);
    EXPECT_EQ(OracleInduction::correct(oracle.answer(prompt, 5, 128, true)), 5) << at;
  }
}

}  // namespace
}  // namespace heed::cache::oracle_induction_test
