// heed results, asked as a person would.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::results_test {
namespace {

using nlohmann::json;

TEST(Results, ARunAddsToThePage) {
  const TemporaryDirectory folder;
  const auto out = " --json --out " + folder.path().string();
  const auto first = test::heed("results linear --only injectivity" + out);
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(json::parse(first.out).size(), 1u);
  const auto second = test::heed("results linear --only magnitude" + out);
  ASSERT_EQ(second.status, 0) << second.err;
  const auto page = json::parse(second.out);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page["injectivity"]["claims"][0]["outcome"], "came out");
  EXPECT_EQ(page["magnitude"]["tables"][0]["rows"].size(), 6u);
  EXPECT_NE(slurp(folder / "linear.md").find("Longer queries attend more sharply"), std::string::npos);
}

TEST(Results, SeveralAtOnceFindWhatOneFinds) {
  const TemporaryDirectory folder, apart;
  const std::string names = "results linear --only injectivity,magnitude,rank --json --out ";
  const auto many = test::heed(names + folder.path().string() + " --jobs 2 --threads 2");
  ASSERT_EQ(many.status, 0) << many.err;
  const auto one = test::heed(names + apart.path().string() + " --jobs 1 --threads 1");
  ASSERT_EQ(one.status, 0) << one.err;
  const auto found = json::parse(many.out), expected = json::parse(one.out);
  ASSERT_EQ(found.size(), 3u);
  for (const auto& [name, entry] : expected.items()) {
    EXPECT_EQ(found[name]["tables"], entry["tables"]) << name;
    EXPECT_EQ(found[name]["threads"], 1) << name;
  }
  EXPECT_NE(slurp(folder / "linear.md").find("Longer queries attend more sharply"), std::string::npos);
}

TEST(Results, SparseKeysOfTheShippedModel) {
  const TemporaryDirectory folder;
  const auto run = test::heed("results sparse --only core_tokens --json --out " + folder.path().string());
  ASSERT_EQ(run.status, 0) << run.err;
  const auto found = json::parse(run.out)["core_tokens"];
  EXPECT_EQ(found["tables"][0]["rows"].size(), 3u);
  EXPECT_EQ(found["claims"].size(), 2u);
  EXPECT_NE(slurp(folder / "sparse.md").find("not run"), std::string::npos);
}

TEST(Results, ListsWithoutRunning) {
  const auto listed = test::heed("results linear --list");
  ASSERT_EQ(listed.status, 0) << listed.err;
  EXPECT_NE(listed.out.find("recall_at_equal_state"), std::string::npos);
}

TEST(Results, BadInputIsOneLine) {
  const TemporaryDirectory folder;
  for (const std::string bad : {"results", "results lineal", "results linear --only magnitud", "results linear --only=",
                                "results linear --jobs 0", "results linear --only magnitude --out /proc/none"}) {
    const auto refused =
        test::heed(bad + (bad.find("--out") == std::string::npos ? " --out " + folder.path().string() : ""));
    EXPECT_EQ(refused.status, 2) << bad << refused.out;
    EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
    EXPECT_EQ(folder.entries(), 0) << bad;
  }
}

}  // namespace
}  // namespace heed::results_test
