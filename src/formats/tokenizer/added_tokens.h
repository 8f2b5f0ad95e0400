// Tokens that are looked for in the text before anything else is done with it: "added_tokens" of tokenizer.json.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "formats/json_node.h"
#include "formats/tokenizer/normalizer.h"
#include "formats/tokenizer/vocabulary.h"

namespace heed::formats {

struct AddedToken {
  int64_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = true, special = false;
  std::string decoded;  ///< what the decoder gets: the normalised content where it was matched normalised
};

/// Finds the leftmost, then longest of several strings.
class TokenTrie {
 public:
  void insert(std::string_view text, size_t value);
  struct Match {
    size_t begin = 0, end = 0, value = 0;
  };
  /// The first match at or behind `from`.
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  static constexpr size_t kNoValue = ~size_t{0};
  std::vector<size_t> values_{kNoValue};             // by node; the root is 0
  std::unordered_map<uint64_t, uint32_t> children_;  // node * 256 + byte
  bool starts_[256] = {};
};

/// A part of a text: an added token, or text between them.
struct TextPart {
  std::string_view text;
  const AddedToken* token = nullptr;
};

class AddedTokens {
 public:
  /// Ids are those of the vocabulary, or follow it in the order of the list, as in the reference, whatever the list
  /// says; throws heed::Error where it says otherwise.
  static AddedTokens read(const std::optional<JsonNode>& list, const Vocabulary& vocabulary,
                          const Normalizer& normalizer);

  const AddedToken* find(std::string_view content) const;
  const AddedToken* find(int64_t id) const;
  int64_t largest_id() const { return largest_; }

  /// The tokens of raw text, or of normalised text, and what lies between.
  std::vector<TextPart> split(std::string_view text, bool normalized) const;

 private:
  std::vector<AddedToken> tokens_;
  StringMap<size_t> by_content_;
  std::unordered_map<int64_t, size_t> by_id_;
  TokenTrie raw_, normalized_;
  int64_t largest_ = -1;
};

}  // namespace heed::formats
