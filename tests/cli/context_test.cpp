// Texts that are longer than a model's positions, and models whose context is short.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/heed_command.h"
#include "cli/small_models.h"

namespace heed::context_test {
namespace {

using nlohmann::json;

TEST(Context, TextEndsWhereLearnedPositionsDo) {
  const test::SmallGpt2 model(24);
  const auto text = test::heed("generate --ignore-eos --max-tokens 100 --prompt 'ten bytes.' --model " + model.path());
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_NE(text.err.find("11 prompt tokens"), std::string::npos) << text.err;
  EXPECT_NE(text.err.find("14 new"), std::string::npos) << text.err;
  EXPECT_EQ(text.err.find("trained on"), std::string::npos) << text.err;
  const auto result =
      test::heed("generate --ignore-eos --max-tokens 100 --prompt 'ten bytes.' --json --model " + model.path());
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  const int64_t prompt = report["prompt_tokens"];
  EXPECT_EQ(report["finish"], "length");
  EXPECT_EQ(report["new_tokens"], 24 - prompt + 1);  // the last one is not read again
}

TEST(Context, APromptBeyondLearnedPositionsIsRefusedBeforeItIsShown) {
  const test::SmallGpt2 model(24);
  const auto result =
      test::heed("generate --echo --prompt 'a prompt of more than two dozen bytes' --model " + model.path());
  EXPECT_EQ(result.status, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("learned positions for 24"), std::string::npos) << result.err;
}

TEST(Context, GoingPastTheTrainedContextIsSaidOnce) {
  const test::ChangedModel model({{"max_position_embeddings", 64}, {"rope_scaling", nullptr}});
  const auto notices = [&](const std::string& arguments) {
    const auto result = test::heed("generate --ignore-eos --model " + model.path() + " " + arguments);
    EXPECT_EQ(result.status, 0) << result.err;
    int64_t count = 0;
    for (size_t at = 0; (at = result.err.find("trained on", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  EXPECT_EQ(notices("--max-tokens 20 --prompt 'a short prompt'"), 0);
  EXPECT_EQ(notices("--max-tokens 80 --prompt 'a short prompt'"), 1);
  EXPECT_EQ(notices("--max-tokens 8 --prompt " + std::string(70, 'a')), 1);
}

TEST(Context, DefaultsFitModelsOfAShortOne) {
  const test::ChangedModel model({{"max_position_embeddings", 256}, {"rope_scaling", nullptr}});
  for (const char* command : {"eval niah --samples 1 --depths 2", "eval suite niah_ruler --samples 1",
                              "probe heads --samples 1 --repeated 20"}) {
    const auto result = test::heed(std::string(command) + " --model " + model.path());
    EXPECT_EQ(result.status, 0) << command << ": " << result.err;
  }
  const test::SmallGpt2 tiny(200);
  for (const char* command : {"eval niah --samples 1 --depths 2", "probe heads --samples 1 --repeated 20"}) {
    const auto result = test::heed(std::string(command) + " --model " + tiny.path());
    EXPECT_EQ(result.status, 0) << command << ": " << result.err;
  }
}

TEST(Context, ASuiteSaysWhatItsGapsAre) {
  const auto gaps = test::heed("eval suite niah_ruler --lengths 128 --samples 1");
  ASSERT_EQ(gaps.status, 0) << gaps.err;
  EXPECT_NE(gaps.out.find("-: the task's least sample has more tokens"), std::string::npos) << gaps.out;
}

TEST(Context, ALikelihoodThatIsNoNumberIsAnError) {
  test::ChangedModel model(json::object());
  model.spoil();
  const TemporaryDirectory folder;
  spill(folder / "text.txt", std::string(4000, 'a') + "\n" + std::string(4000, 'b'));
  const auto result = test::heed("eval text --split train --context 64 --windows 1 --text " +
                                 (folder / "text.txt").string() + " --model " + model.path());
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("no finite numbers"), std::string::npos) << result.err;
  EXPECT_EQ(result.out, "");
}

}  // namespace
}  // namespace heed::context_test
