// Models of small worlds from the command line.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::train_small_test {
namespace {

using nlohmann::json;

json answer_of(const std::string& arguments) {
  const auto result = test::heed(arguments + " --json");
  EXPECT_EQ(result.status, 0) << result.err;
  return json::parse(result.out);
}

TEST(TrainSmall, SpeechComparesMixers) {
  const auto result = answer_of(
      "train speech --steps 3 --batch 2 --dim 16 --layers 1 --utterances 4 --mixer mamba "
      "'mamba2:{\"head_dim\":8,\"state_dim\":4}' --connection concatenated --causal");
  ASSERT_EQ(result["rows"].size(), 2);
  for (const auto& row : result["rows"]) {
    EXPECT_GT(row["parameters"], 1000);
    EXPECT_GE(row["token_error_rate"], 0);
  }
}

TEST(TrainSmall, WorldComparesMixersWithActorsAndWithout) {
  const std::string small = "train world --updates 3 --experience 1010 --imagined 8 --dim 16 --episodes 30";
  const auto acting = answer_of(small);
  ASSERT_EQ(acting["rows"].size(), 2);
  for (const auto& row : acting["rows"]) {
    EXPECT_GT(row["observation_still"], 0);
    EXPECT_GT(row["reward_guess"], 0);
    EXPECT_LE(row["return"], 1);
  }
  EXPECT_EQ(acting["rows"][0]["random_return"], acting["rows"][1]["random_return"]);
  EXPECT_FALSE(answer_of(small + " --no-actor --mixer none")["rows"][0].contains("return"));
}

TEST(TrainSmall, BadInputIsOneLineAndStatusTwo) {
  for (const char* arguments :
       {"train speech --mixer no_such", "train speech --connection cross", "train world --mixer mamba2:1",
        "train world --side 2", "train world --experience 10", "train speech --mixer 'mamba2:{\"head_dim\":7}'"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace heed::train_small_test
