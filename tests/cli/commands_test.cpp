// The commands a person types first.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/heed_command.h"

namespace heed::commands_test {
namespace {

using nlohmann::json;

TEST(Commands, HelpHasAnExampleForEach) {
  const auto all = test::heed("--help");
  EXPECT_EQ(all.status, 0);
  for (const char* command :
       {"compare", "bench kernels", "bench peers", "bench simulate", "bench selection", "run", "list", "doctor",
        "eval text", "eval task", "eval suite", "train lm", "train speech", "train world", "probe heads", "probe duo",
        "probe sinks", "steer search", "steer pairworld"}) {
    const auto help = test::heed(std::string(command) + " --help");
    EXPECT_EQ(help.status, 0) << command;
    EXPECT_NE(help.out.find("example: heed"), std::string::npos) << command;
    EXPECT_NE(all.out.find(std::string(command).substr(0, std::string(command).find(' '))), std::string::npos)
        << command;
  }
}

TEST(Commands, MistypedOnesGetTheNearest) {
  const auto result = test::heed("lst");
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("list"), std::string::npos);
  EXPECT_EQ(test::heed("").status, 2);
  EXPECT_EQ(test::heed("list --no-such-option").status, 2);
  EXPECT_EQ(test::heed("list no_such_name").status, 2);
}

TEST(Commands, ListGivesEveryRowInJson) {
  const auto result = test::heed("list --json");
  ASSERT_EQ(result.status, 0);
  const auto rows = json::parse(result.out);
  std::set<std::string> names;
  for (const auto& row : rows) {
    for (const char* key : {"name", "kind", "family", "paper", "year", "patterns", "step", "core", "grid",
                            "training_free", "cost", "params"})
      EXPECT_TRUE(row.contains(key)) << row["name"] << " " << key;
    EXPECT_TRUE(names.insert(row["name"]).second) << row["name"];
  }
  for (const char* name : {"flash", "block_sparse", "decode", "lean_attention", "dense", "sliding_window",
                           "flash_attention", "sigmoid_attention", "quantizable_attention", "selective_self_attention",
                           "longformer", "bigbird", "s2_attention", "linformer", "niah_single", "niah_ruler",
                           "needle_threading", "retrieval_head", "efficiency_report"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_LT(json::parse(test::heed("list --kind operator --json").out).size(), rows.size());
}

TEST(Commands, JsonGoesToAFile) {
  const TemporaryDirectory folder;
  const auto path = folder / "rows.json";
  ASSERT_EQ(test::heed("list --json=" + path.string()).status, 0);
  EXPECT_TRUE(json::parse(slurp(path)).is_array());
}

TEST(Commands, SimulateCountsTiles) {
  const auto result = test::heed(
      "bench simulate --grid 30x48x80 --window 18x24x24 --stride 1 16x8x8 --query-tile 4x8x8 --key-tile "
      "2x8x8 --attention-share 0.607 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto rows = json::parse(result.out)["results"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_NEAR(rows[0]["speed_up"].get<double>(), 3.27, 0.01);
  EXPECT_NEAR(rows[0]["end_to_end"].get<double>(), 1.73, 0.01);
  EXPECT_NEAR(rows[1]["speed_up"].get<double>(), 11.11, 0.01);
  EXPECT_EQ(rows[1]["perfect"], true);
  const auto small = test::heed("bench simulate --grid 16x16 --window 5 --stride 1 2x2 --measure --threads 1");
  ASSERT_EQ(small.status, 0) << small.err;
  EXPECT_NE(small.out.find("measured"), std::string::npos);
  const auto wrong = test::heed("bench simulate --grid 16x16 --window 17x3");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.err.find("window 17 along axis 0 of 16 cells"), std::string::npos) << wrong.err;
}

TEST(Commands, SelectionIsMeasuredByLength) {
  const auto result = test::heed("bench selection --quick --threads 1 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  ASSERT_EQ(report["dynamic"].size(), 1u);
  EXPECT_EQ(report["dynamic"][0]["density"].get<double>(), 1.0 / 16);
  ASSERT_EQ(report["growth"].size(), 3u);
  for (const auto& row : report["growth"]) EXPECT_TRUE(std::isfinite(row["exponent"].get<double>())) << row["mixer"];
  const auto table = test::heed("bench selection --quick --threads 1");
  EXPECT_NE(table.out.find("superlinear_attention"), std::string::npos);
}

TEST(Commands, DoctorSaysWhatABugReportNeeds) {
  const auto result = test::heed("doctor --json --threads 1");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  for (const char* key : {"heed", "commit", "cpu", "isa", "threads", "libtorch", "blas", "peak_gflops", "read_gbps"})
    EXPECT_TRUE(report.contains(key)) << key;
  EXPECT_EQ(report["threads"], 1);
  EXPECT_EQ(report["torch_threads"], 1);
  EXPECT_GT(report["peak_gflops"], 0.1);
}

}  // namespace
}  // namespace heed::commands_test
