// The second step of tokenizer.json: normalised text to the words that the model encodes each by itself.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/json_node.h"

namespace heed::formats {

/// A piece of text on its way to words.
struct Word {
  std::string text;
  bool at_start = false;  ///< stands at the start of the whole input
};

/// No word that it leaves is empty.
using PreTokenizer = std::function<std::vector<Word>(std::vector<Word>)>;

/// ByteLevel, Split, Metaspace, BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation, Digits, CharDelimiterSplit,
/// or a Sequence of them.
PreTokenizer read_pre_tokenizer(const JsonNode& node);

/// Metaspace's `replacement`, one character, "▁" by default; and whether a text gets one in front.
enum class PrependScheme { never, first, always };
std::string read_metaspace(const JsonNode& node);
PrependScheme read_prepend_scheme(const JsonNode& node);

}  // namespace heed::formats
