// heed compare and heed bench from the command line.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::compare_test {
namespace {

using nlohmann::json;

/// A small model, trained for one step, and the text it was trained on.
struct CompareCommand : ::testing::Test {
  CompareCommand() {
    std::ofstream text(folder / "text");
    for (int i = 0; i < 200; ++i) text << "line " << i % 17 << " of a text that repeats itself, as texts do.\n";
    text.close();
    const auto trained = test::heed(
        "train lm --steps 1 --layers 2 --dim 32 --heads 2 --kv-heads 1 --head-dim 16 --hidden 48 --context 64 --batch "
        "2 --out " +
        model() + " --text " + text_path());
    EXPECT_EQ(trained.status, 0) << trained.err;
  }
  std::string model() const { return (folder / "model").string(); }
  std::string text_path() const { return (folder / "text").string(); }
  std::string base() const {
    return "compare --model " + model() + " --text " + text_path() + " --repeats 1 --lengths 48,96 ";
  }

  TemporaryDirectory folder;
};

TEST_F(CompareCommand, WritesTableJsonAndPage) {
  const auto page = folder / "page.html", file = folder / "figures.json";
  const auto result = test::heed(base() + "--html " + page.string() + " --json=" + file.string());
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.out.find("N = 48"), std::string::npos);
  EXPECT_NE(result.out.find("timing only"), std::string::npos);
  const auto report = json::parse(slurp(file));
  bool dense = false;
  for (const auto& row : report["results"]) {
    if (row["name"] != "dense") continue;
    dense = true;
    EXPECT_EQ(row["timing_only"], row["N"] == 96);
    if (row["N"] == 48) {
      EXPECT_LT(row["error"].get<double>(), 2e-5);
    }
  }
  EXPECT_TRUE(dense);
  const auto html = slurp(page);
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>"));
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_NE(html.find("<svg"), std::string::npos);
}

TEST_F(CompareCommand, TakesChoicesAndSettings) {
  const auto result = test::heed(
      base() +
      "--only sliding_window,op:flash --set sliding_window.window=8 --set sliding_window.sinks=1 --layers 1 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  ASSERT_EQ(report["results"].size(), 4u);
  EXPECT_EQ(report["source"]["layers"], json({1}));
  for (const auto& row : report["results"]) {
    if (row["N"] != 48) continue;
    if (row["name"] == "sliding_window") {
      EXPECT_LT(row["mass"].get<double>(), 0.99);
    }
  }
}

TEST_F(CompareCommand, BadInputIsExplained) {
  for (const auto& [options, word] : {std::pair<std::string, std::string>{"--only sliding_windw", "sliding_window"},
                                      {"--set dense.window=4", "window"},
                                      {"--set dense", "NAME.key=value"},
                                      {"--layers 7", "0 to 1"},
                                      {"--dtype int8", "bfloat16"},
                                      {"--task mqar", "--mixers"},
                                      {"--qkv x.safetensors", "--qkv"}}) {
    const auto result = test::heed(base() + options);
    EXPECT_EQ(result.status, 2) << options;
    EXPECT_NE(result.err.find(word), std::string::npos) << options << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  EXPECT_EQ(test::heed("compare --text /no/such/text --model " + model()).status, 2);
  EXPECT_EQ(test::heed("compare --model /no/such/model").status, 2);
}

TEST(BenchCommand, GivesRowsOfCheckedKernels) {
  // On a machine that is busy with other tests a figure may be refused, which is status 1 and leaves the rows of the
  // others.
  const auto result = test::heed("bench kernels --quick --filter causal --json");
  EXPECT_TRUE(result.status == 0 || result.status == 1) << result.err;
  const auto report = json::parse(result.out);
  for (const char* key : {"isa", "threads", "peak_gflops", "read_gbps", "commit"})
    EXPECT_TRUE(report["machine"].contains(key)) << key;
  EXPECT_FALSE(report["results"].empty());
  for (const auto& row : report["results"]) {
    EXPECT_EQ(row["checked"], true);
    EXPECT_GT(row["share"].get<double>(), 0);
    EXPECT_LE(row["share"].get<double>(), 1);
  }
  EXPECT_EQ(result.status == 1, !report["refused"].empty());
}

TEST(BenchCommand, RunsPeersAndRefusesAnEmptyFilter) {
  const auto result = test::heed("bench peers --quick --filter 'backward flash' --json");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["results"].size(), 4u);
  EXPECT_EQ(test::heed("bench kernels --filter nothing_like_it").status, 2);
}

}  // namespace
}  // namespace heed::compare_test
