// heed probe: the shipped model's heads, asked as a person would.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::probe_test {
namespace {

using nlohmann::json;

TEST(Probe, HeadsGoesToATableAPageAndAFile) {
  const TemporaryDirectory folder;
  const auto page = folder / "heads.html", table = folder / "retrieval.json";
  const auto result = test::heed("probe heads --context 200 --samples 4 --repeated 40 --html " + page.string() +
                                 " --save-heads " + table.string() + " --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  EXPECT_EQ(report["samples"], 4);
  for (const char* name :
       {"retrieval", "induction", "echo", "previous", "streaming", "first", "later_sinks", "entropy", "distance"})
    EXPECT_EQ(report["scores"][name].size(), 6) << name;
  EXPECT_EQ(json::parse(slurp(table))["values"], report["scores"]["retrieval"]);
  EXPECT_NE(slurp(page).find("<svg"), std::string::npos);
  EXPECT_EQ(
      test::heed("generate --prompt 'the number of abcd is 4417. ' --max-tokens 4 --policy duo_attention --set heads=" +
                 table.string() + " --set sinks=4 --set recent=16")
          .status,
      0);
}

TEST(Probe, HeadsAreMaskedFromTheTopAndComparedAcrossLengths) {
  const std::string command =
      "probe heads --context 160 --samples 4 --repeated 20 --mask-top 1,4 --mask-samples 4 --draws 2 --lengths 160,320";
  const auto result = test::heed(command + " --json");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  ASSERT_EQ(report["masked_top"].size(), 4u);  // each under both maskings
  for (const auto& row : report["masked_top"]) {
    EXPECT_EQ(row["random"].size(), 2u);
    EXPECT_LE(row["top"], row["unmasked"]);
  }
  ASSERT_EQ(report["lengths"].size(), 2u);
  EXPECT_EQ(report["lengths"][1]["length"], 320);
  EXPECT_NEAR(report["lengths"][0]["rank_correlation"][0].get<double>(), 1, 1e-9);
  EXPECT_EQ(report["lengths"][0]["rank_correlation"][1], report["lengths"][1]["rank_correlation"][0]);
  EXPECT_GT(report["lengths"][0]["rank_correlation"][1].get<double>(), 0);
  EXPECT_EQ(report["lengths"][0]["retrieval"], report["scores"]["retrieval"]);
}

TEST(Probe, DuoTrainsGatesThatThePolicyLoads) {
  const TemporaryDirectory folder;
  const auto gates = folder / "gates.json";
  const auto trained = test::heed("probe duo --steps 2 --context 300 --save-heads " + gates.string());
  ASSERT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(json::parse(slurp(gates))["heads"], "kv");
  const auto compared = test::heed("probe duo --heads " + gates.string() +
                                   " --compare --task-context 200 --samples 2 --draws 2 --sparsities 0.5 --json");
  ASSERT_EQ(compared.status, 0) << compared.err;
  EXPECT_EQ(json::parse(compared.out)["choices"].size(), 6);
  EXPECT_EQ(test::heed("eval task niah_single --context 200 --samples 2 --policy duo_attention --policy-set heads=" +
                       gates.string())
                .status,
            0);
}

TEST(Probe, SinksGoToATableAndFiles) {
  const TemporaryDirectory folder;
  const auto directions = folder / "directions.safetensors", file = folder / "sinks.json", page = folder / "sinks.html";
  const auto result = test::heed("probe sinks --context 300 --norms 0,10 --save-directions " + directions.string() +
                                 " --json=" + file.string() + " --html " + page.string());
  ASSERT_EQ(result.status, 0) << result.err;
  const auto html = slurp(page);
  for (const char* title : {"Weight on the first token", "Weight of secondary sinks", "Lifetime of secondary sinks"})
    EXPECT_NE(html.find(title), std::string::npos) << title;
  EXPECT_EQ(html.find("nan"), std::string::npos);
  EXPECT_NE(result.out.find("the first token"), std::string::npos);
  const auto report = json::parse(slurp(file));
  EXPECT_EQ(report["norms"].size(), 6);
  EXPECT_EQ(report["directions"][0].size(), 192);
  EXPECT_EQ(report["steered"].size(), 2);
  EXPECT_GT(slurp(directions).size(), 2 * 6 * 192 * 4);
}

TEST(Probe, BadInputIsOneLineAndStatusTwo) {
  for (const char* arguments :
       {"probe", "probe haeds", "probe heads --task no_such_task", "probe heads --model /no/such/model",
        "probe heads --samples 4 --by inducton --context 200 --save-heads /tmp/x", "probe duo --full-from nobody",
        "probe duo --heads /no/such/file.json", "probe duo --steps 0", "probe sinks --file /no/such/text",
        "probe sinks --context 9000"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace heed::probe_test
