#include "formats/tokenizer/added_tokens.h"

#include <algorithm>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

bool word_ends_at(std::string_view text, size_t end) {
  if (end == 0) return false;
  size_t at = previous_start(text, end);
  return is_word(next_character(text, at));
}

bool word_begins_at(std::string_view text, size_t at) { return at < text.size() && is_word(next_character(text, at)); }

size_t spaces_before(std::string_view text, size_t end) {
  while (end > 0) {
    const size_t start = previous_start(text, end);
    size_t at = start;
    if (!is_white_space(next_character(text, at))) break;
    end = start;
  }
  return end;
}

size_t spaces_behind(std::string_view text, size_t begin) {
  for (size_t at = begin; at < text.size(); begin = at) {
    if (!is_white_space(next_character(text, at))) break;
  }
  return begin;
}

AddedToken read_token(const JsonNode& node) {
  AddedToken token;
  token.id = node.at("id").whole(0, kMaxTokenId);
  token.content = node.at("content").text();
  if (token.content.size() > kMaxTokenBytes) node.at("content").refuse(fmt::format("at most {} bytes", kMaxTokenBytes));
  if (invalid_utf8_at(token.content) != std::string::npos) node.at("content").refuse("UTF-8");
  token.single_word = node.flag_or("single_word", false);
  token.lstrip = node.flag_or("lstrip", false);
  token.rstrip = node.flag_or("rstrip", false);
  token.special = node.flag_or("special", false);
  token.normalized = node.flag_or("normalized", !token.special);
  return token;
}

}  // namespace

void TokenTrie::insert(std::string_view text, size_t value) {
  if (text.empty()) return;
  starts_[static_cast<unsigned char>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [child, fresh] = children_.emplace(key, static_cast<uint32_t>(values_.size()));
    if (fresh) values_.push_back(kNoValue);
    node = child->second;
  }
  if (values_[node] == kNoValue) values_[node] = value;
}

std::optional<TokenTrie::Match> TokenTrie::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      const auto child = children_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
      if (child == children_.end()) break;
      node = child->second;
      if (values_[node] != kNoValue) longest = Match{begin, at + 1, values_[node]};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

AddedTokens AddedTokens::read(const std::optional<JsonNode>& list, const Vocabulary& vocabulary,
                              const Normalizer& normalizer) {
  AddedTokens made;
  if (!list) return made;
  int64_t next = static_cast<int64_t>(vocabulary.size());
  for (const auto& node : list->items()) {
    AddedToken token = read_token(node);
    if (token.content.empty()) continue;
    if (made.by_content_.contains(token.content)) node.at("content").refuse("a token that is not in the list before");
    const auto known = vocabulary.find(token.content);
    const int64_t id = known ? *known : next++;
    require(token.id == id, "{}: {}.id is {}, accepted: {}, {} {}", node.source(), node.place(), token.id, id,
            known ? "as in the vocabulary, of" : "the next free one, for", quote(token.content));
    token.decoded = token.normalized && normalizer ? normalizer(token.content) : token.content;
    made.largest_ = std::max(made.largest_, id);
    made.by_content_.emplace(token.content, made.tokens_.size());
    const bool free = made.by_id_.emplace(id, made.tokens_.size()).second && (known || !vocabulary.token(id));
    require(free, "{}: {}.id is {}, which another token has", node.source(), node.place(), id);
    (token.normalized ? made.normalized_ : made.raw_).insert(token.decoded, made.tokens_.size());
    made.tokens_.push_back(std::move(token));
  }
  return made;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(int64_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

std::vector<TextPart> AddedTokens::split(std::string_view text, bool normalized) const {
  const TokenTrie& trie = normalized ? normalized_ : raw_;
  std::vector<TextPart> parts;
  size_t done = 0, from = 0;
  while (const auto match = trie.find(text, from)) {
    const AddedToken& token = tokens_[match->value];
    size_t begin = match->begin, end = match->end;
    from = end;
    if (token.single_word && (word_ends_at(text, begin) || word_begins_at(text, end))) continue;
    if (token.lstrip) begin = std::max(done, spaces_before(text, begin));
    if (token.rstrip) end = spaces_behind(text, end);
    if (begin > done) parts.push_back({text.substr(done, begin - done), nullptr});
    parts.push_back({text.substr(match->begin, match->end - match->begin), &token});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), nullptr});
  return parts;
}

}  // namespace heed::formats
