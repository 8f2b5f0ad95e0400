// `heed compare --policies` on the shipped model, and the file that it writes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::compare_policies_test {
namespace {

using nlohmann::json;

const std::string kSmall =
    "compare --policies --only streaming_llm,snap_kv --budgets 0.25 --prompt 256 --steps 8 --repeats 1 --task '' ";

TEST(ComparePoliciesCommand, WritesTheChoiceThatGenerateAndEvalLoad) {
  const TemporaryDirectory folder;
  const auto policy = (folder / "policy.json").string(), page = (folder / "page.html").string(),
             prompt = (folder / "prompt").string();
  std::ofstream(prompt) << std::string(600, 'a');
  const auto result = test::heed(kSmall + "--json --html " + page + " --save-policy " + policy);
  ASSERT_EQ(result.status, 0) << result.err;
  const auto found = json::parse(result.out);
  ASSERT_EQ(found["results"].size(), 3u);
  for (const auto& row : found["results"]) {
    for (const char* key : {"prefill_s", "tokens_per_s", "cache_bytes", "prompt_bytes", "pairs_read"})
      EXPECT_GT(row[key].get<double>(), 0) << row["policy"] << " " << key;
    EXPECT_EQ(row["peak_cache_bytes"], std::max(row["cache_bytes"].get<int64_t>(), row["prompt_bytes"].get<int64_t>()));
    EXPECT_GE(row["kl"].get<double>(), -1e-12);
    EXPECT_TRUE(row["top1"] >= 0 && row["top1"] <= 1);
  }
  // Both hold a quarter and the compressed prompt is the smaller: the choice is one of the two.
  const auto chosen = found["chosen"]["policy"].get<std::string>();
  EXPECT_TRUE(chosen == "streaming_llm" || chosen == "snap_kv") << chosen;
  const auto html = slurp(page);
  EXPECT_NE(html.find("Pareto"), std::string::npos);
  EXPECT_NE(html.find(chosen), std::string::npos);

  const auto saved = json::parse(slurp(policy));
  EXPECT_EQ(saved, found["chosen"]);
  const auto text = test::heed("generate --json --max-tokens 3 --policy " + policy + " --file " + prompt);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_EQ(json::parse(text.out)["policy"], chosen);
  EXPECT_EQ(json::parse(text.out)["settings"], saved["settings"]);
  const auto score = test::heed("eval task niah_single --context 256 --samples 1 --json --policy " + policy);
  ASSERT_EQ(score.status, 0) << score.err;
  EXPECT_EQ(json::parse(score.out)["policy"], chosen);
}

TEST(ComparePoliciesCommand, RefusesWhenNothingFits) {
  const TemporaryDirectory folder;
  const auto policy = (folder / "policy.json").string();
  const auto result =
      test::heed(kSmall + "--max-kl 0.5 --max-bytes 1000 --min-tokens-per-second 1 --save-policy " + policy);
  EXPECT_EQ(result.status, 1) << result.err;
  for (const char* limit : {"KL at most 0.5", "at most 1000 bytes", "at least 1 tokens/s"})
    EXPECT_NE(result.err.find(limit), std::string::npos) << result.err;
  EXPECT_FALSE(std::filesystem::exists(policy));
}

TEST(ComparePoliciesCommand, RowsThatSayHowTheyStoreAreLeftOutUnderAnotherFormat) {
  const auto result = test::heed(
      "compare --policies --only kv_quant,streaming_llm --kv int8 --budgets 0.25 --prompt 128 --steps 4 --repeats 1 "
      "--task '' --json");
  ASSERT_EQ(result.status, 0) << result.err;
  std::vector<std::string> names;
  const auto found = json::parse(result.out);
  for (const auto& row : found["results"]) names.push_back(row["policy"]);
  EXPECT_EQ(names, (std::vector<std::string>{"full", "streaming_llm", "full"}));
}

TEST(ComparePoliciesCommand, BadInputIsOneLineAndStatus2) {
  const TemporaryDirectory folder;
  const auto file = (folder / "bad.json").string();
  std::ofstream(file) << R"({"policy": "quest", "settings": [1]})";
  for (const auto& [arguments, word] :
       {std::pair<std::string, std::string>{"compare --policies --only " + file, "bad.json"},
        {"generate --prompt hi --policy " + file, "bad.json"},
        {"eval task niah_single --context 256 --samples 1 --policy " + file, "bad.json"},
        {"compare --policies --only snap_vk", "snap_kv"},
        {"compare --policies --budgets 1.5", "1.5"}}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_NE(result.err.find(word), std::string::npos) << arguments << ": " << result.err;
  }
}

}  // namespace
}  // namespace heed::compare_policies_test
