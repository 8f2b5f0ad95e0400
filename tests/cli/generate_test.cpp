// `heed generate` on the shipped model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"
#include "heed/assets.h"

namespace heed::generate_test {
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
  // 32 channels in 4 bits, and two float16 numbers.
  EXPECT_LT(bytes("full --kv int4"), bytes("full") / 6);
}

/// The shipped model with the files of a chat model beside it.
class ChatModel {
 public:
  explicit ChatModel(const std::string& chat_template) {
    for (const auto& file : std::filesystem::directory_iterator(find_asset("tiny-lm")))
      std::filesystem::create_symlink(file.path(), folder_.path() / file.path().filename());
    const auto& tokens = recorded()["tokens"];
    nlohmann::json config = tokens;
    config["chat_template"] = chat_template;
    std::ofstream(folder_ / "tokenizer_config.json") << config;
  }
  std::string path() const { return folder_.path().string(); }

  /// What transformers renders: tests/formats/fixtures/make_chat_templates.py.
  static const nlohmann::json& recorded() {
    static const auto all =
        nlohmann::json::parse(slurp(std::string(HEED_TEST_SOURCE_DIR) + "/formats/fixtures/chat_templates.json"));
    return all;
  }

 private:
  TemporaryDirectory folder_;
};

TEST(GenerateCommand, ChatSpeaksTheModelsTemplate) {
  const auto& all = ChatModel::recorded();
  int compared = 0;
  for (const auto& item : all["templates"]) {
    for (const auto& want : item["cases"]) {
      const auto& talk = all["talks"][want["talk"].get<size_t>()];
      // What the command can say: one user message, maybe a system message before it, in no special mode.
      const bool system = talk.size() == 2 && talk[0]["role"] == "system";
      if (!(system || talk.size() == 1) || talk.back()["role"] != "user" || !want["prompt"].get<bool>()) continue;
      if (!talk.back()["content"].is_string() || !all["variables"][want["variables"].get<size_t>()].empty()) continue;
      if (item["name"].get<std::string>().starts_with("small")) continue;
      ++compared;
      const ChatModel model(item["template"]);
      std::ofstream(std::filesystem::path(model.path()) / "prompt") << talk.back()["content"].get<std::string>();
      std::string command = "generate --chat --echo --ignore-eos --max-tokens 0 --model " + model.path() + " --file " +
                            model.path() + "/prompt";
      if (system) command += " --system '" + talk[0]["content"].get<std::string>() + "'";
      const auto result = test::heed(command);
      if (want["text"].is_null()) {
        EXPECT_EQ(result.status, 2) << item["name"];
        continue;
      }
      EXPECT_EQ(result.status, 0) << result.err;
      EXPECT_EQ(result.out, want["text"].get<std::string>() + "\n") << item["name"];
    }
  }
  EXPECT_GE(compared, 14);
}

TEST(GenerateCommand, ChatNeedsATemplate) {
  for (const auto& [arguments, word] :
       {std::pair{"--chat", "has no chat template"}, {"--system x", "--system goes with --chat"}}) {
    const auto result = test::heed(std::string("generate --prompt x ") + arguments);
    EXPECT_EQ(result.status, 2);
    EXPECT_NE(result.err.find(word), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  const ChatModel broken("{% if %}");
  const auto result = test::heed("generate --chat --prompt x --model " + broken.path());
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("chat_template: line 1, column 7"), std::string::npos) << result.err;
}

TEST(GenerateCommand, ATemperatureNearNothingIsGreedy) {
  const std::string prompt = "generate --prompt 'The file system' --max-tokens 6 ";
  EXPECT_EQ(test::heed(prompt + "--temperature 1e-320").out, test::heed(prompt).out);
}

TEST(GenerateCommand, PromptsThatAreNoTextsAreNamed) {
  for (const auto& [file, word] : {std::pair{"/tmp", "is a folder"}, {"/dev/zero", "more than"}}) {
    const auto result = test::heed(std::string("generate --file ") + file);
    EXPECT_EQ(result.status, 2) << file;
    EXPECT_NE(result.err.find(file), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(word), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  const TemporaryDirectory folder;
  spill(folder / "prompt", "from a pipe");
  EXPECT_EQ(test::heed("generate --file - --max-tokens 0 --echo <" + (folder / "prompt").string()).out,
            "from a pipe\n");
}

TEST(GenerateCommand, BadInputIsOneLineAndStatus2) {
  for (const char* arguments :
       {"generate", "generate --prompt x --policy no_such", "generate --prompt x --policy streaming_llm --set windw=3",
        "generate --prompt x --model /no/such/folder", "generate --prompt x --kv int3", "generate --prompt x --top-p 0",
        "generate --prompt x --stop ''", "generate --file /no/such/file"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << arguments << ": " << result.err;
    EXPECT_EQ(result.out, "") << arguments;
  }
}

}  // namespace
}  // namespace heed::generate_test
