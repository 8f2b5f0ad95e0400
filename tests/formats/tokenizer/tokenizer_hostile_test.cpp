// Tokenizer files and texts that were made to do harm.
#include <functional>
#include <random>

#include "heed/formats/tokenizer.h"
#include "support/test_files.h"
#include "support/tokenizer_fixtures.h"

namespace heed::formats::tokenizer_hostile_test {
namespace {

using Json = nlohmann::json;

Json small() {
  return Json::parse(R"({"version": "1.0", "added_tokens": [{"id": 5, "content": "<s>", "special": true}],
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated", "invert": false},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3, " ": 4}, "merges": [["a", "b"], "ab a"]}})");
}

void refused(const std::function<void(Json&)>& damage, std::string_view expected) {
  Json json = small();
  damage(json);
  SCOPED_TRACE(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  const auto message = error_of([&] { Tokenizer::parse(json, "some/tokenizer.json"); });
  EXPECT_TRUE(message.starts_with("some/tokenizer.json: ")) << message;
  EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
}

TEST(TokenizerHostile, TheSmallOneWorks) {
  const auto tokenizer = Tokenizer::parse(small(), "x");
  EXPECT_EQ(tokenizer.encode("aba ab<s>b"), (std::vector<int64_t>{3, 4, 2, 5, 1}));
}

TEST(TokenizerHostile, MissingPieces) {
  refused([](Json& j) { j.erase("model"); }, "model is missing");
  refused([](Json& j) { j["model"].erase("vocab"); }, "model.vocab is missing");
  refused([](Json& j) { j["model"].erase("merges"); }, "model.merges is missing");
  refused([](Json& j) { j["added_tokens"][0].erase("id"); }, "added_tokens[0].id is missing");
  refused([](Json& j) { j["added_tokens"][0].erase("content"); }, "added_tokens[0].content is missing");
  refused([](Json& j) { j["pre_tokenizer"].erase("pattern"); }, "pre_tokenizer.pattern is missing");
  refused([](Json& j) { j["pre_tokenizer"].erase("type"); }, "pre_tokenizer.type is missing");
  refused([](Json& j) { j["normalizer"] = {{"type", "Sequence"}}; }, "normalizer.normalizers is missing");
  refused([](Json& j) { j["decoder"] = {{"type", "Strip"}, {"content", " "}}; }, "decoder.start is missing");
  refused([](Json& j) { j["post_processor"] = {{"type", "TemplateProcessing"}}; }, "post_processor.single is missing");
  refused([](Json& j) { j = Json::array(); }, "accepted: an object");
  refused([](Json& j) { j = 7; }, "accepted: an object");
}

TEST(TokenizerHostile, WrongValues) {
  refused([](Json& j) { j["version"] = "2.0"; }, "version is '\"2.0\"', accepted: 1.0");
  refused([](Json& j) { j["model"]["type"] = "Unigram"; }, "accepted: BPE or WordPiece");
  refused([](Json& j) { j["model"]["vocab"] = {"a", "b"}; }, "accepted: an object from tokens to ids");
  refused([](Json& j) { j["model"]["vocab"]["c"] = -1; }, "accepted: 0 to 16777215");
  refused([](Json& j) { j["model"]["vocab"]["c"] = 4294967295u; }, "accepted: 0 to 16777215");
  refused([](Json& j) { j["model"]["vocab"]["c"] = 1e300; }, "accepted: 0 to 16777215");
  refused([](Json& j) { j["model"]["vocab"]["c"] = 2; }, "which 'ab' has too");
  refused([](Json& j) { j["model"]["vocab"][std::string(5000, 'x')] = 9; }, "accepted: at most 4096");
  refused([](Json& j) { j["model"]["vocab"]["\xff"] = 9; }, "no UTF-8");
  refused([](Json& j) { j["model"]["merges"] = Json::parse(R"([["a", "b"], ["ab", "b"]])"); }, "merges[1]");
  refused([](Json& j) { j["model"]["merges"] = Json::parse(R"([["a", "z"]])"); }, "that the vocabulary lacks");
  refused([](Json& j) { j["model"]["merges"] = {"a b c"}; }, "two tokens and a space");
  refused([](Json& j) { j["model"]["merges"] = {{"a", "b", "c"}}; }, "no pair of tokens");
  refused([](Json& j) { j["model"]["merges"] = {{1, 2}}; }, "no pair of tokens");
  refused([](Json& j) { j["model"]["merges"] = "a b"; }, "accepted: a list of pairs");
  refused([](Json& j) { j["model"]["unk_token"] = "?"; }, "accepted: a token of the vocabulary");
  refused([](Json& j) { j["model"]["dropout"] = 0.1; }, "model.dropout is '0.1'");
  refused([](Json& j) { j["model"]["byte_fallback"] = "yes"; }, "accepted: true or false");
  refused([](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }, "without continuing_subword_prefix");
  refused([](Json& j) { j["added_tokens"][0]["id"] = 6; }, "accepted: 5, the next free one");
  refused([](Json& j) { j["added_tokens"][0]["content"] = "a"; }, "accepted: 0, as in the vocabulary");
  refused([](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }, "not in the list before");
  refused([](Json& j) { j["added_tokens"] = "<s>"; }, "accepted: a list");
  refused([](Json& j) { j["normalizer"] = {{"type", "Precompiled"}}; }, "normalizer.type is 'Precompiled'");
  refused([](Json& j) { j["normalizer"] = "NFC"; }, "accepted: an object");
  refused([](Json& j) { j["decoder"] = {{"type", "CTC"}}; }, "decoder.type");
  refused([](Json& j) { j["pre_tokenizer"]["behavior"] = "Glued"; }, "accepted: Isolated");
  refused([](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}}; }, "one character");
  refused(
      [](Json& j) {
        j["post_processor"] = {{"type", "BertProcessing"}, {"cls", {"<s>", -4}}, {"sep", {"a", 0}}};
      },
      "post_processor.cls[1]");
  refused(
      [](Json& j) {
        j["post_processor"] = {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "[X]"}}}}}},
                               {"special_tokens", Json::object()}};
      },
      "accepted: a name of special_tokens");
}

TEST(TokenizerHostile, Patterns) {
  for (const char* pattern : {"(", "[a", "a{3,1}", "\\", "(?<n>a)(?<n>b)", "[a-z&&[aeiou]]", "[a[b]]", "\\h", "(?m:a)",
                              "\\p{Nonsense}", "(*UTF)a", "[\\W]", "\\Ka", "a{2}+"}) {
    refused([&](Json& j) { j["pre_tokenizer"]["pattern"]["Regex"] = pattern; }, "the pattern ");
  }
  refused([](Json& j) { j["pre_tokenizer"]["pattern"]["Regex"] = std::string(20000, 'a'); }, "at most 16384");
  refused([](Json& j) { j["pre_tokenizer"]["pattern"]["Regex"] = std::string(200, '(') + std::string(200, ')'); },
          "the pattern ");
}

TEST(TokenizerHostile, PatternsThatBacktrackForEver) {
  for (const char* pattern : {"(a+)+$c", "(a|a)*c", "(?:a*)*\\1(b)", "(?R)?a", "(a|(?1))*c"}) {
    auto json = small();
    json["pre_tokenizer"]["pattern"]["Regex"] = pattern;
    SCOPED_TRACE(pattern);
    try {
      const auto ids = Tokenizer::parse(json, "x").encode(std::string(5000, 'a'));
      EXPECT_EQ(ids.size(), 5000u);
    } catch (const Error&) {
    }
  }
}

TEST(TokenizerHostile, RulesThatBlowTextUp) {
  auto json = small();
  const Json grow = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(200, 'a')}};
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({grow, grow, grow, grow, grow, grow})}};
  json["added_tokens"] = Json::array();
  const auto tokenizer = Tokenizer::parse(json, "x");
  EXPECT_NE(error_of([&] { tokenizer.encode("aaaa"); }).find("accepted: at most 64 times"), std::string::npos);
}

TEST(TokenizerHostile, NestingEnds) {
  Json deep = {{"type", "NFC"}};
  for (int i = 0; i < 40; ++i) deep = {{"type", "Sequence"}, {"normalizers", Json::array({deep})}};
  auto json = small();
  json["normalizer"] = deep;
  EXPECT_NE(error_of([&] { parse_json(json.dump(), "x"); }).find("nested deeper"), std::string::npos);
}

// Merges that lead to each other, to themselves or to nothing cannot go round: each takes a symbol away.
TEST(TokenizerHostile, MergesThatGoRound) {
  auto json = small();
  json["model"]["vocab"] = {{"a", 0}, {"aa", 1}, {"", 2}, {"aaa", 3}, {"aaaa", 4}};
  json["model"]["merges"] =
      Json::parse(R"([["", ""], ["a", ""], ["", "a"], ["a", "a"], ["aa", "a"], ["a", "aa"], ["aa", "aa"]])");
  const auto ids = Tokenizer::parse(json, "x").encode(std::string(101, 'a'), false);
  EXPECT_EQ(ids.size(), 26u);
}

TEST(TokenizerHostile, TextMustBeUtf8) {
  const auto tokenizer = Tokenizer::parse(small(), "x");
  for (const std::string bad :
       {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xc0\xaf", "ab\xf4\x90\x80\x80", "ab\x80", "ab\xe2\x82"}) {
    EXPECT_NE(error_of([&] { tokenizer.encode(bad); }).find("no UTF-8 at byte 2 of"), std::string::npos);
  }
}

TEST(TokenizerHostile, Directories) {
  const TemporaryDirectory folder;
  const auto error = [&] { return error_of([&] { Tokenizer::open(folder.path()); }); };
  EXPECT_NE(error_of([&] { Tokenizer::open(folder / "gone"); }).find("no directory"), std::string::npos);
  EXPECT_NE(error().find("neither a tokenizer.json"), std::string::npos);
  spill(folder / "config.json", R"({"heed": 5})");
  EXPECT_NE(error().find("heed is '5'"), std::string::npos);
  spill(folder / "config.json", R"({"heed": {"tokenizer": "words"}})");
  EXPECT_NE(error().find("neither a tokenizer.json"), std::string::npos);
  spill(folder / "tokenizer.json", "");
  EXPECT_NE(error().find("invalid JSON"), std::string::npos);
  spill(folder / "tokenizer.json", small().dump());
  spill(folder / "tokenizer_config.json", R"({"bos_token": 3})");
  EXPECT_NE(error().find("bos_token is '3', accepted: a string"), std::string::npos);
  spill(folder / "tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(Tokenizer::open(folder.path()).roles().bos, 5);
}

TEST(TokenizerHostile, RandomDamage) {
  for (const auto& family : tokenizer_families()) {
    const std::string good = slurp(tokenizer_fixtures() / family / "tokenizer.json");
    EXPECT_THROW(parse_json(good.substr(0, good.size() / 2), "half"), Error);
    int accepted = 0;
    for (uint32_t seed = 0; seed < 150; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", family, seed));
      std::mt19937 random(seed);
      std::string text = good;
      for (uint32_t edits = 1 + random() % 3; edits > 0; --edits) {
        const size_t at = random() % text.size();
        if (random() % 2 == 0) {
          text[at] = "{}[]:,\"0123456789-eEatrue\\u\xc3"[random() % 27];
        } else {
          text.erase(at, 1 + random() % 4);
        }
      }
      try {
        const auto tokenizer = Tokenizer::parse(parse_json(text, "damaged"), "damaged");
        ++accepted;
        tokenizer.decode(tokenizer.encode("Some text, 12 <s> \xe6\x97\xa5\xe6\x9c\xac"), false);
      } catch (const Error&) {
      }
    }
    EXPECT_GT(accepted, 0) << "the damage never left a readable file: the test sees only half of the reader";
  }
}

}  // namespace
}  // namespace heed::formats::tokenizer_hostile_test
