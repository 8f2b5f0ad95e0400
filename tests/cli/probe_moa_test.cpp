// `heed probe moa` and `heed probe minference` on the shipped model: what they save is a policy.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::probe_moa_test {
namespace {

void expect_policy(const std::filesystem::path& file, const std::string& name) {
  const auto result = test::heed("generate --prompt 'The file system' --max-tokens 4 --json --policy " + file.string());
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out)["policy"], name);
}

TEST(ProbeMoaCommand, SavesAPlanThatPoliciesFollow) {
  const TemporaryDirectory folder;
  const auto result =
      test::heed("probe moa --lengths 384,512 --unseen 448 --samples 1 --density 0.9 --step 64 --json --save-policy " +
                 (folder / "moa.json").string() + " --save-heads " + (folder / "heads.json").string());
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_FALSE(json["plans"].empty());
  for (const auto& plan : json["plans"])
    for (const double density : plan["density"]) EXPECT_LE(density, 0.9 + 1e-9);
  expect_policy(folder / "moa.json", "moa_sparse");
  const auto heads = test::heed("generate --prompt x --max-tokens 2 --policy moa_sparse --set heads=" +
                                (folder / "heads.json").string());
  EXPECT_EQ(heads.status, 0) << heads.err;
}

TEST(ProbeMoaCommand, ComparesWindowsOfEqualBytes) {
  const auto result = test::heed(
      "probe moa --task niah_single --lengths 384,512 --unseen 448 --samples 1 --density 0.7 --step 64 --compare "
      "--compare-samples 2 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json["comparison"].size(), 2u * 4);
  for (size_t i = 0; i < 8; i += 4) {
    const double bytes = json["comparison"][i + 1]["kv_bytes"];
    EXPECT_LT(bytes, 0.9 * double(json["comparison"][i]["kv_bytes"]));
    // As near as dials give: a block of 64 tokens for each of the 18 heads of 32 + 32 floats, or one head whole.
    constexpr double kStep = 18.0 * 64 * (32 + 32) * 4;
    for (const size_t other : {i + 2, i + 3})
      EXPECT_NEAR(double(json["comparison"][other]["kv_bytes"]), bytes, kStep / 2) << other;
  }
}

TEST(ProbeMinferenceCommand, SavesAPatternForEachHead) {
  const TemporaryDirectory folder;
  const auto result =
      test::heed("probe minference --length 400 --json --save-policy " + (folder / "patterns.json").string());
  ASSERT_EQ(result.status, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  for (const auto& pattern : json["patterns"]) EXPECT_LE(json["error"], pattern["error"]);
  expect_policy(folder / "patterns.json", "minference");
}

TEST(ProbeMoaCommand, BadInputIsOneLineAndStatus2) {
  for (const char* arguments : {"probe moa --task no_such", "probe moa --lengths 256 --unseen 256 --samples 1",
                                "probe minference --length 100 --scale -1", "probe minference --text /no/such/file"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
  }
}

}  // namespace
}  // namespace heed::probe_moa_test
