// The patterns of tokenizer.json, written for Oniguruma, matched by PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json_node.h"

namespace heed::formats {

/// A part of a text, as byte offsets, and whether the pattern matched it.
struct PatternSpan {
  size_t begin = 0, end = 0;
  bool match = false;
};

/// Longest text that a rule may put in the place of another, in bytes.
inline constexpr size_t kMaxReplacement = 256;
/// `node`'s string, of at most kMaxReplacement bytes.
std::string read_replacement(const JsonNode& node);
/// Throws heed::Error when a sequence of rules blows a text up beyond all use.
void check_growth(size_t before, size_t after, std::string_view source);

/// What becomes of the matched parts when a text is split.
enum class SplitBehavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };
SplitBehavior read_split_behavior(const JsonNode& node);

/// Covers a text by matches and by what lies between them.
class SplitPattern {
 public:
  /// Oniguruma's (Ruby) syntax as far as tokenizers use it: \s, \w and \d follow Unicode, ^ and $ stand at lines.
  /// Throws heed::Error, beginning with `source`, for what PCRE2 does not know or means otherwise.
  static SplitPattern regex(std::string_view pattern, std::string_view source);
  static SplitPattern literal(std::string_view text);
  /// {"Regex": ...} or {"String": ...}.
  static SplitPattern read(const JsonNode& node);

  /// The text must be valid UTF-8. Throws heed::Error when a pattern backtracks without end.
  std::vector<PatternSpan> find(std::string_view text) const;
  /// The text with `content` in the place of every match.
  std::string replace(std::string_view text, std::string_view content) const;

 private:
  struct Compiled;
  std::vector<PatternSpan> find_literal(std::string_view text) const;

  std::shared_ptr<const Compiled> compiled_;  // null: literal
  std::string literal_;
};

/// The pieces that a split leaves, none of them empty.
std::vector<std::string_view> split_pieces(std::string_view text, const std::vector<PatternSpan>& spans,
                                           SplitBehavior behavior);

/// Every character for which `matches` holds is a match of its own.
std::vector<PatternSpan> find_characters(std::string_view text, bool (*matches)(char32_t));

}  // namespace heed::formats
