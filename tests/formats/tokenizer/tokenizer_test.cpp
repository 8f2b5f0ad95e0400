#include "heed/formats/tokenizer.h"

#include <chrono>
#include <random>

#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/normalizer.h"
#include "formats/tokenizer/pre_tokenizer.h"
#include "formats/tokenizer/token_decoder.h"
#include "heed/formats/byte_tokenizer.h"
#include "support/test_files.h"
#include "support/tokenizer_fixtures.h"

namespace heed::formats::tokenizer_test {
namespace {

using Json = nlohmann::json;

class Family : public testing::TestWithParam<std::string> {
 protected:
  Tokenizer tokenizer_ = Tokenizer::open(tokenizer_fixtures() / GetParam());
  Json texts_ = read_json_file(tokenizer_fixtures() / "texts.json");
  Json expected_ = read_json_file(tokenizer_fixtures() / GetParam() / "expected.json");
};

TEST_P(Family, GivesTheIdsAndTheTextOfTheReference) {
  ASSERT_EQ(texts_.size(), expected_.size());
  for (size_t i = 0; i < texts_.size(); ++i) {
    const auto text = texts_[i].get<std::string>();
    SCOPED_TRACE(fmt::format("text {}: {}", i, texts_[i].dump()));
    const auto& want = expected_[i];
    const auto ids = tokenizer_.encode(text, false);
    ASSERT_EQ(Json(ids), want["ids"]);
    ASSERT_EQ(Json(tokenizer_.decode(ids)), want["decoded"]);
    if (!want.contains("with_special")) continue;
    const auto whole = tokenizer_.encode(text);
    ASSERT_EQ(Json(whole), want["with_special"]);
    ASSERT_EQ(Json(tokenizer_.decode(whole, false)), want["kept"]);
  }
}

TEST_P(Family, GivesThePairsOfTheReference) {
  const auto all = read_json_file(tokenizer_fixtures() / "pairs.json");
  const auto& expected = all["families"][GetParam()];
  ASSERT_EQ(expected.size(), 2 * all["pairs"].size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto& pair = all["pairs"][i / 2];
    SCOPED_TRACE(pair.dump());
    const auto got =
        tokenizer_.encode_pair(pair[0].get<std::string>(), pair[1].get<std::string>(), expected[i]["special"]);
    EXPECT_EQ(Json(got.ids), expected[i]["ids"]);
    EXPECT_EQ(Json(got.type_ids), expected[i]["type_ids"]);
  }
}

TEST(TokenizerPairs, OfBytesFollowEachOther) {
  SpecialTokens roles;
  roles.bos = 0;
  const auto pair = Tokenizer::bytes(roles).encode_pair("ab", "c");
  EXPECT_EQ(pair.ids, (std::vector<int64_t>{0, 'a', 'b', 'c'}));
  EXPECT_EQ(pair.type_ids, (std::vector<int64_t>{0, 0, 0, 1}));
}

TEST_P(Family, StreamsWhatItDecodes) {
  for (const bool skip : {false, true}) {
    for (const auto& item : texts_) {
      SCOPED_TRACE(item.dump());
      const auto ids = tokenizer_.encode(item.get<std::string>());
      TextStream stream(tokenizer_, skip);
      std::string joined;
      for (const int64_t id : ids) {
        const std::string piece = stream.push(id);
        ASSERT_NO_THROW(Json(piece).dump()) << "a piece that is no UTF-8";
        joined += piece;
      }
      ASSERT_EQ(joined + stream.finish(), tokenizer_.decode(ids, skip));
    }
  }
}

TEST_P(Family, KnowsItsTokens) {
  const auto json = read_json_file(tokenizer_fixtures() / GetParam() / "tokenizer.json");
  int64_t largest = -1;
  const auto check = [&](const std::string& token, int64_t id) {
    EXPECT_EQ(tokenizer_.id_of(token), id) << token;
    EXPECT_EQ(tokenizer_.token_of(id), token) << id;
    largest = std::max(largest, id);
  };
  for (const auto& [token, id] : json["model"]["vocab"].items()) check(token, id);
  for (const auto& added : json["added_tokens"]) {
    check(added["content"], added["id"]);
    EXPECT_EQ(tokenizer_.is_special(added["id"]), added["special"]);
  }
  EXPECT_EQ(tokenizer_.vocab_size(), largest + 1);
  EXPECT_EQ(tokenizer_.id_of("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer_.token_of(largest + 1), std::nullopt);
  EXPECT_EQ(tokenizer_.token_of(-1), std::nullopt);
  // An id without a token, as in a padded vocabulary, gives no text.
  const std::vector<int64_t> ids{largest + 7, -3};
  EXPECT_EQ(tokenizer_.decode(ids), "");
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Family, testing::ValuesIn(tokenizer_families()),
                         [](const auto& family) { return family.param; });

TEST(TokenizerStep, Normalizers) {
  const auto json = read_json_file(tokenizer_fixtures() / "steps.json");
  for (const auto& item : json["normalizers"]) {
    const auto normalizer = read_normalizer(JsonNode(item["step"], "x"));
    for (size_t i = 0; i < json["texts"].size(); ++i) {
      EXPECT_EQ(Json(normalizer(json["texts"][i])), item["results"][i]) << item["step"] << " of " << json["texts"][i];
    }
  }
}

TEST(TokenizerStep, PreTokenizers) {
  const auto json = read_json_file(tokenizer_fixtures() / "steps.json");
  for (const auto& item : json["pre_tokenizers"]) {
    const auto pre_tokenizer = read_pre_tokenizer(JsonNode(item["step"], "x"));
    for (size_t i = 0; i < json["texts"].size(); ++i) {
      if (json["texts"][i] == "") continue;
      Json words = Json::array();
      for (const auto& word : pre_tokenizer({{json["texts"][i].get<std::string>(), true}})) words.push_back(word.text);
      EXPECT_EQ(words, item["results"][i]) << item["step"] << " of " << json["texts"][i];
    }
  }
}

TEST(TokenizerStep, Decoders) {
  const auto json = read_json_file(tokenizer_fixtures() / "steps.json");
  for (const auto& item : json["decoders"]) {
    const auto decoder = read_token_decoder(JsonNode(item["step"], "x"));
    for (size_t i = 0; i < json["tokens"].size(); ++i) {
      std::string text;
      for (const auto& part : decoder(json["tokens"][i].get<std::vector<std::string>>())) text += part;
      EXPECT_EQ(Json(text), item["results"][i]) << item["step"] << " of " << json["tokens"][i];
    }
  }
}

TEST(TokenizerRoles, ComeFromTheFilesBeside) {
  const auto llama3 = Tokenizer::open(tokenizer_fixtures() / "llama3");
  EXPECT_EQ(llama3.roles().bos, llama3.id_of("<|begin_of_text|>"));
  EXPECT_EQ(llama3.roles().eos, llama3.id_of("<|eot_id|>"));
  EXPECT_EQ(llama3.roles().pad, std::nullopt);
  EXPECT_EQ(Tokenizer::open(tokenizer_fixtures() / "gpt2").roles().eos, std::nullopt);

  const TemporaryDirectory folder;
  spill(folder / "tokenizer.json", slurp(tokenizer_fixtures() / "bert" / "tokenizer.json"));
  spill(folder / "special_tokens_map.json", R"({"cls_token": {"content": "[CLS]"}, "sep_token": "[SEP]",
        "pad_token": "[nowhere]", "mask_token": null})");
  const auto bert = Tokenizer::open(folder.path());
  EXPECT_EQ(bert.roles().cls, 2);
  EXPECT_EQ(bert.roles().sep, 3);
  EXPECT_EQ(bert.roles().pad, std::nullopt);
  EXPECT_EQ(bert.roles().mask, std::nullopt);
}

TEST(ByteTokenizerFace, IsAskedForByConfigJson) {
  const TemporaryDirectory folder;
  spill(folder / "config.json", R"({"heed": {"tokenizer": "bytes"}, "bos_token_id": 0, "eos_token_id": [0, 1]})");
  const auto bytes = Tokenizer::open(folder.path());
  EXPECT_EQ(bytes.encode("a\xff"), (std::vector<int64_t>{0, 97, 255}));
  EXPECT_EQ(bytes.encode("a\xff", false), (std::vector<int64_t>{97, 255}));
  EXPECT_EQ(bytes.roles().bos, 0);
  EXPECT_EQ(bytes.roles().eos, 0);
  EXPECT_EQ(bytes.vocab_size(), ByteTokenizer::kVocabulary);
  const std::vector<int64_t> ids{0, 'a', 0xc3, 0xa9, 0xff, 300};
  EXPECT_EQ(bytes.decode(ids), "a\xc3\xa9\xef\xbf\xbd");
  EXPECT_EQ(bytes.decode(ids, false), std::string("\0a\xc3\xa9\xef\xbf\xbd", 7));
  TextStream stream(bytes);
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xc3), "");
  EXPECT_EQ(stream.push(0xa9), "\xc3\xa9");
  EXPECT_EQ(stream.push(0xe2), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
}

// A model may say anything: every piece is UTF-8, and broken bytes do not stop the stream.
TEST(TextStream, SurvivesAnyIds) {
  for (const auto& family : tokenizer_families()) {
    const auto tokenizer = Tokenizer::open(tokenizer_fixtures() / family);
    for (uint32_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", family, seed));
      std::mt19937 random(seed);
      TextStream stream(tokenizer);
      std::string joined;
      for (int i = 0; i < 60; ++i) {
        const std::string piece = stream.push(random() % static_cast<uint64_t>(tokenizer.vocab_size()));
        ASSERT_NO_THROW(Json(piece).dump());
        joined += piece;
      }
      EXPECT_GT(joined.size() + stream.finish().size(), 30u);
    }
  }
}

// Both ways of merging are one.
TEST(Bpe, LongWordsMergeAsShortOnes) {
  Json vocabulary = Json::object(), merges = Json::array();
  const std::string alphabet = "abcd";
  std::vector<std::string> tokens;
  for (const char c : alphabet) tokens.emplace_back(1, c);
  std::mt19937 random(5);
  while (tokens.size() < 120) {
    const auto& left = tokens[random() % tokens.size()];
    const auto& right = tokens[random() % tokens.size()];
    merges.push_back({left, right});
    if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) tokens.push_back(left + right);
  }
  for (size_t i = 0; i < tokens.size(); ++i) vocabulary[tokens[i]] = i;
  const Json model = {{"vocab", vocabulary}, {"merges", merges}};
  const Bpe bpe(JsonNode(model, "x"));

  // The definition: of all neighbours the pair with the earliest merge, the leftmost of several.
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[{merges[i][0], merges[i][1]}] = i;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937 letters(seed);
    std::vector<std::string> parts;
    std::string word;
    for (size_t length = 1 + letters() % 120; length > 0; --length) {
      parts.emplace_back(1, alphabet[letters() % 4]);
      word += parts.back();
    }
    while (true) {
      size_t best = merges.size(), at = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks.find({parts[i], parts[i + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, at = i;
      }
      if (best == merges.size()) break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
    std::vector<int64_t> ids, expected;
    bpe.encode(word, ids);
    for (const auto& part : parts) expected.push_back(vocabulary[part]);
    ASSERT_EQ(ids, expected) << word;
  }
}

TEST(Bpe, AWordOfAMillionLettersIsNoTrouble) {
  const auto llama2 = Tokenizer::open(tokenizer_fixtures() / "llama2");
  std::string text;
  while (text.size() < 1'000'000) text += "the lazy dog it's ab";
  const auto start = std::chrono::steady_clock::now();
  const auto ids = llama2.encode(text, false);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_EQ(llama2.decode(ids), text);
  RecordProperty("seconds", fmt::format("{:.3f}", seconds));
  // n^2 steps would be 10^12.
  EXPECT_LT(seconds, 60);
}

}  // namespace
}  // namespace heed::formats::tokenizer_test
