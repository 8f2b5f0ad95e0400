// heed surgery, asked as a person would.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::surgery_test {
namespace {

using nlohmann::json;

TEST(Surgery, EchoAttWritesACheckpointThatGenerates) {
  const TemporaryDirectory folder;
  const auto out = (folder / "shared").string();
  const auto made =
      test::heed("surgery echo_att --blocks 2-3 --steps 2 --batch 1 --context 64 --samples 1 --json --out " + out);
  ASSERT_EQ(made.status, 0) << made.err;
  const auto report = json::parse(made.out);
  EXPECT_EQ(report["blocks"], "2-3");
  EXPECT_EQ(report["parameters"][0].get<int64_t>() - report["parameters"][1].get<int64_t>(), 192 * 32 * (6 + 3));
  EXPECT_GT(report["converted_nats"], report["nats"]);
  EXPECT_EQ(report["similarity"].size(), 6u);
  const auto text = test::heed("generate --max-tokens 8 --prompt 'the number' --json --model " + out);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_EQ(json::parse(text.out)["new_tokens"], 8);
}

TEST(Surgery, BlocksAreCompared) {
  const auto compared = test::heed(
      "surgery echo_att --compare --first 1 --last 1 --steps 1 --batch 1 --context 64 --samples 1 --windows 2 --json");
  ASSERT_EQ(compared.status, 0) << compared.err;
  const auto report = json::parse(compared.out);
  ASSERT_EQ(report["choices"].size(), 3u);
  EXPECT_GT(report["choices"][0]["similarity"], report["choices"][1]["similarity"]);
  EXPECT_EQ(report["choices"][2]["blocks"], "0-1");
}

TEST(Surgery, AxformerLeavesPartsOut) {
  const TemporaryDirectory folder;
  const auto out = (folder / "smaller").string();
  const std::string search =
      "surgery axformer --windows 2 --context 64 --channel-groups 2 --tolerance 0.02 --json --out ";
  const auto made = test::heed(search + out);
  ASSERT_EQ(made.status, 0) << made.err;
  const auto report = json::parse(made.out);
  EXPECT_FALSE(report["removed"].empty());
  EXPECT_LE(report["valid_nats"][1].get<double>(), report["valid_nats"][0].get<double>());
  EXPECT_LE(report["parameters"][1], report["parameters"][0]);
  EXPECT_GT(report["test_nats"][1].get<double>(), 0);
  const auto text = test::heed("generate --max-tokens 8 --prompt 'the number' --json --model " + out);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_EQ(json::parse(text.out)["new_tokens"], 8);
}

TEST(Surgery, LandmarksAreInsertedWhereverTheModelIsUsed) {
  const TemporaryDirectory folder;
  const auto out = (folder / "landmarks").string();
  const auto made = test::heed("surgery landmarks --block 5 --json --out " + out);
  ASSERT_EQ(made.status, 0) << made.err;
  const auto report = json::parse(made.out);
  EXPECT_EQ(report["parameters"][1].get<int64_t>() - report["parameters"][0].get<int64_t>(), 192);  // an embedding
  const auto text = test::heed("generate --max-tokens 12 --prompt 'the number' --json --model " + out);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_EQ(json::parse(text.out)["new_tokens"], 12);
}

TEST(Surgery, BadInputIsOneLine) {
  for (const char* bad :
       {"surgery", "surgery axformer", "surgery axformer --out x --channel-groups 7",
        "surgery axformer --out x --share 0", "surgery axformer --out x --tolerance -1", "surgery echo_att",
        "surgery echo_att --out x --blocks 9-12 --samples 1", "surgery echo_att --out x --blocks 2",
        "surgery echo_att --out x --dtype int4", "surgery echo_att --out x --weights 1,2", "surgery landmarks",
        "surgery landmarks --out x --block 1", "surgery landmarks --out x --retrieve-by row",
        "surgery echo_att --compare --size 6"}) {
    const auto result = test::heed(bad);
    EXPECT_EQ(result.status, 2) << bad;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace heed::surgery_test
