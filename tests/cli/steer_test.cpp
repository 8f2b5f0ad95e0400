// heed steer, and interventions in heed generate and heed eval, asked as a person would.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/heed_command.h"

namespace heed::steer_test {
namespace {

using nlohmann::json;

json answer_of(const std::string& arguments) {
  const auto result = test::heed(arguments + " --json");
  EXPECT_EQ(result.status, 0) << arguments << "\n" << result.err;
  return json::parse(result.out, nullptr, false);
}

TEST(Steer, InterventionsAreListed) {
  std::set<std::string> names;
  for (const auto& row : answer_of("list --kind intervention")) names.insert(row["name"]);
  for (const char* name : {"act_calibration", "var_redistribution", "head_temperature", "flow_cut"})
    EXPECT_TRUE(names.contains(name)) << name;
}

TEST(Steer, GenerateAndEvalTakeAnIntervention) {
  const TemporaryDirectory folder;
  const std::string prompt = "generate --max-tokens 4 --prompt 'the number of abcd is 4417. the number of abcd is '";
  EXPECT_EQ(answer_of(prompt)["text"], answer_of(prompt + " --intervention head_temperature")["text"]);
  const auto hot = answer_of(prompt + " --intervention head_temperature --intervention-set temperature=100");
  EXPECT_EQ(hot["intervention"], "head_temperature");
  EXPECT_NE(hot["text"], "4417");
  const auto file = folder / "hot.json";
  std::ofstream(file) << R"({"intervention": "head_temperature", "settings": {"temperature": 100}})";
  const std::string task = "eval task niah_single --context 160 --samples 3";
  EXPECT_LT(answer_of(task + " --intervention " + file.string())["score"], answer_of(task)["score"]);
  std::ofstream(folder / "text.txt") << std::string(4000, 'a') + "\n" + std::string(4000, 'b');
  const std::string text =
      "eval text --text " + (folder / "text.txt").string() + " --split train --context 64 --windows 1";
  EXPECT_NE(answer_of(text + " --intervention " + file.string())["perplexity"], answer_of(text)["perplexity"]);
}

TEST(Steer, AFileWithoutSettingsOfItsOwnIsNamed) {
  const TemporaryDirectory folder;
  const auto file = (folder / "choice.json").string();
  for (const char* settings : {"3", "[1]", "\"x\"", "null"}) {
    spill(file, std::string(R"({"intervention": "head_temperature", "settings": )") + settings + "}");
    const auto result = test::heed("generate --prompt x --intervention-set temperature=2 --intervention " + file);
    EXPECT_EQ(result.status, 2) << settings;
    EXPECT_NE(result.err.find(file + ": settings are "), std::string::npos) << result.err;
  }
}

TEST(Steer, WhatCannotSteerATextIsSaid) {
  for (const auto& [arguments, word] : {std::pair{"flow_cut", "vision transformer"},
                                        {"head_temperature --intervention-set temperature=1e-320", "0.001 to"},
                                        {"head_temperature --intervention-set temperature=0", "0.001 to"}}) {
    const auto result = test::heed(std::string("generate --prompt x --intervention ") + arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_NE(result.err.find(word), std::string::npos) << result.err;
  }
}

TEST(Steer, SearchSavesHeadsThatTheInterventionLoads) {
  const TemporaryDirectory folder;
  const auto heads = folder / "heads.json";
  const auto found = answer_of(
      "steer search --intervention act_calibration --context 128 --samples 1 --set threshold=0.05 --save-heads " +
      heads.string());
  EXPECT_EQ(found["gains"].size(), 6);
  EXPECT_EQ(json::parse(slurp(heads))["heads"], "query");
  answer_of("generate --prompt abc --max-tokens 2 --intervention act_calibration --intervention-set heads=" +
            heads.string());
}

TEST(Steer, PairWorldComparesCaptions) {
  const auto result = answer_of("steer pairworld --steps 3 --batch 4 --images 8 --targets 8 --kept 0.6");
  EXPECT_EQ(result["rows"].size(), 2 * (3 + 1 + 3));
}

TEST(Steer, BadInputIsOneLineAndStatusTwo) {
  for (const char* arguments :
       {"steer", "steer serach", "steer search --intervention no_such", "steer search --set heads=all",
        "generate --prompt abc --intervention act_calibration --policy streaming_llm",
        "generate --prompt abc --intervention act_calibration --kv int8",
        "generate --prompt abc --intervention-set beta=1", "generate --prompt abc --intervention var_redistribution",
        "generate --prompt abc --intervention /no/such/file.json",
        "generate --prompt abc --intervention act_calibration --intervention-set beta=2",
        "steer pairworld --steps 0"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace heed::steer_test
