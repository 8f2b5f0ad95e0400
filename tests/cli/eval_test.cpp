// `heed eval` on the shipped model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::eval_test {
namespace {

using nlohmann::json;

TEST(EvalCommand, ASuiteIsAMapOfTasksAndLengths) {
  const TemporaryDirectory folder;
  const auto page = (folder / "map.html").string();
  const auto result =
      test::heed("eval suite niah_ruler --lengths 256,1024 --samples 1 --set keys=3 --json --html " + page);
  ASSERT_EQ(result.status, 0) << result.err;
  const auto map = json::parse(result.out);
  EXPECT_EQ(map["lengths"], json({256, 1024}));
  ASSERT_EQ(map["tasks"].size(), 13u);
  for (const auto& task : map["tasks"]) {
    // Ten common words six times each do not fit 256 bytes, nor do three keys with four values.
    EXPECT_EQ(task["results"].size(), task["task"] == "cwe" || task["task"] == "niah_multivalue" ? 1u : 2u) << task;
    EXPECT_EQ(task["parameters"].contains("keys"), task["task"].get<std::string>().starts_with("niah")) << task;
    for (const auto& cell : task["results"])
      for (const char* metric : {"score", "match_all", "match_any", "exact", "forced", "low", "high"})
        EXPECT_TRUE(cell[metric] >= 0 && cell[metric] <= 1) << metric;
  }
  const auto html = slurp(page);
  EXPECT_NE(html.find("heat h"), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
}

TEST(EvalCommand, MapsCoverTheNewTasks) {
  for (const char* task : {"niah_multivalue", "passkey", "threading_single"}) {
    const auto result = test::heed(std::string("eval niah --lengths 512 --depths 2 --samples 1 --json --task ") + task);
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(json::parse(result.out)["results"].size(), 2u);
  }
}

TEST(EvalCommand, ATaskHasEveryMetric) {
  const auto result = test::heed("eval task niah_single --context 512 --samples 8 --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto score = json::parse(result.out);
  // The shipped model finds a needle; what it writes is then the whole answer, token by token.
  EXPECT_GE(score["score"].get<double>(), 0.75);
  for (const char* metric : {"match_all", "match_any", "exact", "forced"}) EXPECT_EQ(score[metric], score["score"]);
}

TEST(EvalCommand, BadInputIsOneLineAndStatus2) {
  for (const auto& [arguments, word] : {std::pair{"suite niah_rulr", "niah_ruler"},
                                        {"suite niah_ruler --set sand=1", "sand"},
                                        {"suite needle_threading --lengths 64 --samples 1 --set ids=full", "fits"},
                                        {"niah --task vt --lengths 512 --samples 1", "depth"},
                                        {"task cwe --context 100 --samples 1", "too few"}}) {
    const auto result = test::heed(std::string("eval ") + arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_NE(result.err.find(word), std::string::npos) << arguments << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace heed::eval_test
