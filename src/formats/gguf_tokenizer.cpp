// GGUF's lists become the tokenizer.json that the model's own conversion has.
#include "heed/formats/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "formats/tokenizer/vocabulary.h"
#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr size_t kMaxPieceBytes = 512;
const std::string kMark = "\xe2\x96\x81";

enum TokenKind : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4 };

const Json& list(const GgufFile& file, const char* key) {
  const auto* found = file.find(key);
  require(found && found->is_array(), "{}: metadata {} is {}, accepted: a list", file.path().string(), quote(key),
          found ? "no list" : "missing");
  return *found;
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<int64_t> kinds;
  Json ids = Json::object();
};

Tokens read_tokens(const GgufFile& file) {
  Tokens tokens;
  const std::string source = file.path().string();
  for (const auto& item : list(file, "tokenizer.ggml.tokens")) {
    require(item.is_string(), "{}: tokenizer.ggml.tokens holds what is no string", source);
    const auto& text = item.get_ref<const std::string&>();
    require(invalid_utf8_at(text) == text.npos && text.size() <= kMaxTokenBytes,
            "{}: the token {} is no UTF-8 of at most {} bytes", source, tokens.texts.size(), kMaxTokenBytes);
    require(!tokens.ids.contains(text), "{}: the token {} stands twice", source, quote(text));
    tokens.ids[text] = tokens.texts.size();
    tokens.texts.push_back(text);
  }
  tokens.kinds.assign(tokens.texts.size(), kNormal);
  if (!file.find("tokenizer.ggml.token_type")) return tokens;
  const auto& kinds = list(file, "tokenizer.ggml.token_type");
  require(kinds.size() == tokens.kinds.size(), "{}: {} token types for {} tokens", source, kinds.size(),
          tokens.kinds.size());
  for (size_t i = 0; i < kinds.size(); ++i) {
    require(kinds[i].is_number_integer(), "{}: tokenizer.ggml.token_type holds what is no whole number", source);
    tokens.kinds[i] = kinds[i].get<int64_t>();
  }
  return tokens;
}

// Every way in which two tokens make a third is a merge; those of likelier tokens come first, as in transformers'
// conversion of SentencePiece models.
Json merges_by_score(const GgufFile& file, const Tokens& tokens) {
  const auto& scores = list(file, "tokenizer.ggml.scores");
  require(scores.size() == tokens.texts.size(), "{}: {} scores for {} tokens", file.path().string(), scores.size(),
          tokens.texts.size());
  StringMap<size_t> ids;
  for (size_t i = 0; i < tokens.texts.size(); ++i) ids.emplace(tokens.texts[i], i);
  struct Pair {
    double score;
    size_t left_length, right_length, left, right;
  };
  std::vector<Pair> pairs;
  for (size_t i = 0; i < tokens.texts.size(); ++i) {
    require(scores[i].is_number(), "{}: tokenizer.ggml.scores holds what is no number", file.path().string());
    const double score = scores[i].get<double>();
    require(score == score, "{}: the score of token {} is no number", file.path().string(), i);
    const std::string_view text = tokens.texts[i];
    // Cutting a piece everywhere takes the square of its length.
    require(text.size() <= kMaxPieceBytes, "{}: the token {} has {} bytes, accepted: at most {}", file.path().string(),
            i, text.size(), kMaxPieceBytes);
    const size_t first = pairs.size();
    for (size_t at = 0; at < text.size();) {
      next_character(text, at);
      const auto left = ids.find(text.substr(0, at)), right = ids.find(text.substr(at));
      if (at == text.size() || left == ids.end() || right == ids.end()) continue;
      pairs.push_back(
          {score, count_characters(left->first), count_characters(right->first), left->second, right->second});
    }
    std::stable_sort(pairs.begin() + static_cast<ptrdiff_t>(first), pairs.end(), [](const Pair& a, const Pair& b) {
      return a.left != b.left ? a.left < b.left : a.right < b.right;
    });
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.left_length != b.left_length ? a.left_length > b.left_length : a.right_length > b.right_length;
  });
  Json merges = Json::array();
  for (const auto& pair : pairs) merges.push_back({tokens.texts[pair.left], tokens.texts[pair.right]});
  return merges;
}

Json sentence_piece(const GgufFile& file, const Tokens& tokens) {
  const bool prefix = file.flag("tokenizer.ggml.add_space_prefix").value_or(true);
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kMark}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMark}});
  Json decoders = Json::array();
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", kMark}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  Json model = {{"type", "BPE"}, {"byte_fallback", true}, {"fuse_unk", true}, {"vocab", tokens.ids}};
  model["merges"] = merges_by_score(file, tokens);
  const auto unknown = std::find(tokens.kinds.begin(), tokens.kinds.end(), kUnknown);
  if (unknown != tokens.kinds.end()) {
    model["unk_token"] = tokens.texts[static_cast<size_t>(unknown - tokens.kinds.begin())];
  }
  return {{"model", model},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}}};
}

Json byte_level(const GgufFile& file, const Tokens& tokens) {
  const std::string words = file.text("tokenizer.ggml.pre").value_or("gpt-2");
  const bool llama = words == "llama-bpe" || words == "llama3" || words == "llama-v3";
  require(llama || words == "qwen2" || words == "gpt-2" || words == "default",
          "{}: tokenizer.ggml.pre is {}, accepted: gpt-2, default, llama-bpe, llama3, llama-v3, qwen2",
          file.path().string(), quote(words));
  const bool plain = words == "gpt-2" || words == "default";
  Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", plain}};
  Json json;
  json["model"] = {{"type", "BPE"}, {"ignore_merges", llama}, {"vocab", tokens.ids}};
  json["model"]["merges"] = list(file, "tokenizer.ggml.merges");
  if (plain) {
    json["pre_tokenizer"] = bytes;
  } else {
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", llama ? kLlama3Pattern : kQwen2Pattern}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}};
  }
  if (words == "qwen2") json["normalizer"] = {{"type", "NFC"}};
  json["decoder"] = {{"type", "ByteLevel"}};
  return json;
}

SpecialTokens read_roles(const GgufFile& file, const Tokens& tokens) {
  const auto id = [&](const char* name) -> std::optional<int64_t> {
    const auto found = file.whole(std::string("tokenizer.ggml.") + name);
    const bool known = found && *found >= 0 && *found < static_cast<int64_t>(tokens.texts.size());
    return known ? found : std::nullopt;
  };
  SpecialTokens roles;
  roles.bos = id("bos_token_id");
  roles.eos = id("eos_token_id");
  roles.unk = id("unknown_token_id");
  roles.sep = id("seperator_token_id");  // so spelt in the format
  roles.pad = id("padding_token_id");
  roles.cls = id("cls_token_id");
  roles.mask = id("mask_token_id");
  return roles;
}

// <s> $A </s>, as far as the file asks for them.
void add_template(const GgufFile& file, const Tokens& tokens, const SpecialTokens& roles, bool is_llama, Json& json) {
  Json single = Json::array(), special = Json::object();
  const auto add = [&](std::optional<int64_t> id) {
    if (!id) return;
    const auto& text = tokens.texts[static_cast<size_t>(*id)];
    special[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
  };
  if (file.flag("tokenizer.ggml.add_bos_token").value_or(is_llama)) add(roles.bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (file.flag("tokenizer.ggml.add_eos_token").value_or(false)) add(roles.eos);
  json["post_processor"] = {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", special}};
}

}  // namespace

Tokenizer gguf_tokenizer(const GgufFile& file) {
  const auto model = file.text("tokenizer.ggml.model");
  const bool is_llama = model == "llama";
  require(is_llama || model == "gpt2", "{}: tokenizer.ggml.model is {}, accepted: llama, gpt2", file.path().string(),
          model ? quote(*model) : "missing");
  const Tokens tokens = read_tokens(file);
  Json json = is_llama ? sentence_piece(file, tokens) : byte_level(file, tokens);
  Json added = Json::array();
  for (size_t i = 0; i < tokens.texts.size(); ++i) {
    const bool special = tokens.kinds[i] == kControl || tokens.kinds[i] == kUnknown;
    if ((!special && tokens.kinds[i] != kUserDefined) || tokens.texts[i].empty()) continue;
    added.push_back({{"id", i}, {"content", tokens.texts[i]}, {"special", special}, {"normalized", false}});
  }
  json["added_tokens"] = added;
  const SpecialTokens roles = read_roles(file, tokens);
  add_template(file, tokens, roles, is_llama, json);
  Tokenizer tokenizer = Tokenizer::parse(json, file.path().string() + ": tokenizer");
  tokenizer.set_roles(roles);
  return tokenizer;
}

}  // namespace heed::formats
