// `heed generate` on the shipped model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed {
namespace {

TEST(GenerateCommand, StreamsTextAndReportsWhatItCost) {
  const auto plain = test::heed("generate --prompt 'The file system' --max-tokens 20");
  ASSERT_EQ(plain.status, 0) << plain.err;
  EXPECT_GE(plain.out.size(), 20u);
  EXPECT_NE(plain.err.find("tokens/s"), std::string::npos);
  const auto result = test::heed("generate --prompt 'The file system' --max-tokens 20 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["prompt_tokens"], 16);
  EXPECT_EQ(json["new_tokens"], 20);
  EXPECT_EQ(json["text"].get<std::string>() + "\n", plain.out);
  EXPECT_GT(json["cache_bytes"].get<int64_t>(), 0);
}

TEST(GenerateCommand, APolicyHoldsLess) {
  const TemporaryDirectory folder;
  std::ofstream(folder / "prompt") << std::string(700, 'a');
  const auto bytes = [&](const std::string& policy) {
    const auto result =
        test::heed("generate --json --file " + (folder / "prompt").string() + " --max-tokens 4 --policy " + policy);
    EXPECT_EQ(result.status, 0) << result.err;
    return result.status ? 0 : nlohmann::json::parse(result.out)["cache_bytes"].get<int64_t>();
  };
  EXPECT_LT(bytes("streaming_llm --set window=64 sinks=4"), bytes("full") / 8);
}

TEST(GenerateCommand, BadInputIsOneLineAndStatus2) {
  for (const char* arguments :
       {"generate", "generate --prompt x --policy no_such", "generate --prompt x --policy streaming_llm --set windw=3",
        "generate --prompt x --model /no/such/folder", "generate --prompt x --top-p 0", "generate --prompt x --stop ''",
        "generate --file /no/such/file"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << arguments << ": " << result.err;
    EXPECT_EQ(result.out, "") << arguments;
  }
}

}  // namespace
}  // namespace heed
