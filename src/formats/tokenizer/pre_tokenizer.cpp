#include "formats/tokenizer/pre_tokenizer.h"

#include "formats/tokenizer/byte_level.h"
#include "formats/tokenizer/split_pattern.h"
#include "formats/unicode.h"

namespace heed::formats {
namespace {

// `split(text)` gives the spans of one word.
template <class Split>
std::vector<Word> split_words(const std::vector<Word>& words, SplitBehavior behavior, const Split& split) {
  std::vector<Word> out;
  for (const auto& word : words) {
    for (const auto piece : split_pieces(word.text, split(word.text), behavior)) {
      out.push_back({std::string(piece), word.at_start && piece.data() == word.text.data()});
    }
  }
  return out;
}

PreTokenizer split_at(bool (*matches)(char32_t), SplitBehavior behavior) {
  return [=](const std::vector<Word>& words) {
    return split_words(words, behavior, [&](const std::string& text) { return find_characters(text, matches); });
  };
}

bool is_any_punctuation(char32_t c) {
  const bool ascii =
      c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z');
  return ascii || is_punctuation(c);
}

PreTokenizer byte_level(const JsonNode& node) {
  const bool prefix = node.flag_or("add_prefix_space", true);
  std::optional<SplitPattern> pattern;
  if (node.flag_or("use_regex", true)) pattern = SplitPattern::regex(kGpt2Pattern, node.source());
  return [=](std::vector<Word> words) {
    for (auto& word : words) {
      if (prefix && !word.text.starts_with(' ')) word.text.insert(0, 1, ' ');
    }
    if (pattern) {
      words = split_words(words, SplitBehavior::isolated, [&](const std::string& text) { return pattern->find(text); });
    }
    for (auto& word : words) word.text = to_byte_alphabet(word.text);
    return words;
  };
}

PreTokenizer split(const JsonNode& node) {
  const auto pattern = SplitPattern::read(node.at("pattern"));
  const auto behavior = read_split_behavior(node.at("behavior"));
  const bool invert = node.flag_or("invert", false);
  return [=](const std::vector<Word>& words) {
    return split_words(words, behavior, [&](const std::string& text) {
      auto spans = pattern.find(text);
      if (invert) {
        for (auto& span : spans) span.match = !span.match;
      }
      return spans;
    });
  };
}

PreTokenizer metaspace(const JsonNode& node) {
  const auto scheme = read_prepend_scheme(node);
  const bool splits = node.flag_or("split", true);
  const std::string mark = read_metaspace(node);
  return [=, pattern = SplitPattern::literal(mark)](std::vector<Word> words) {
    for (auto& word : words) {
      std::string text;
      for (const char c : word.text) {
        if (c == ' ') {
          text += mark;
        } else {
          text += c;
        }
      }
      const bool wanted = scheme == PrependScheme::always || (scheme == PrependScheme::first && word.at_start);
      word.text = wanted && !text.starts_with(mark) ? mark + text : text;
    }
    if (!splits) return words;
    return split_words(words, SplitBehavior::merged_with_next,
                       [&](const std::string& text) { return pattern.find(text); });
  };
}

PreTokenizer sequence(std::vector<PreTokenizer> steps) {
  return [steps = std::move(steps)](std::vector<Word> words) {
    for (const auto& step : steps) words = step(std::move(words));
    return words;
  };
}

// Runs of word characters and runs of neither those nor spaces; \w+|[^\w\s]+.
PreTokenizer whitespace() {
  const auto kind = [](char32_t c) { return is_word(c) ? 0 : is_white_space(c) ? 1 : 2; };
  return [=](const std::vector<Word>& words) {
    return split_words(words, SplitBehavior::removed, [&](const std::string& text) {
      std::vector<PatternSpan> spans;
      int previous = -1;
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        const int now = kind(next_character(text, at));
        if (now != previous) spans.push_back({begin, at, now == 1});
        spans.back().end = at;
        previous = now;
      }
      return spans;
    });
  };
}

PreTokenizer delimiter(const JsonNode& node) {
  const auto pattern = SplitPattern::literal(node.at("delimiter").text());
  return [=](const std::vector<Word>& words) {
    return split_words(words, SplitBehavior::removed, [&](const std::string& text) { return pattern.find(text); });
  };
}

}  // namespace

std::string read_metaspace(const JsonNode& node) {
  const auto replacement = node.find("replacement");
  if (!replacement) return "\xe2\x96\x81";
  const std::string text = replacement->text();
  if (count_characters(text) != 1) replacement->refuse("one character");
  return text;
}

PrependScheme read_prepend_scheme(const JsonNode& node) {
  // Older files say add_prefix_space instead.
  const bool prefix = node.flag_or("add_prefix_space", true);
  const auto scheme = node.find("prepend_scheme");
  if (!scheme) return prefix ? PrependScheme::always : PrependScheme::never;
  const std::string name = scheme->text();
  if (name == "never") return PrependScheme::never;
  if (prefix && name == "first") return PrependScheme::first;
  if (prefix && name == "always") return PrependScheme::always;
  scheme->refuse(prefix ? "never, first or always" : "never, where add_prefix_space is false");
}

PreTokenizer read_pre_tokenizer(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string name = type.text();
  if (name == "Sequence") {
    std::vector<PreTokenizer> steps;
    for (const auto& step : node.at("pretokenizers").items()) steps.push_back(read_pre_tokenizer(step));
    return sequence(std::move(steps));
  }
  if (name == "ByteLevel") return byte_level(node);
  if (name == "Split") return split(node);
  if (name == "Metaspace") return metaspace(node);
  if (name == "BertPreTokenizer") {
    return sequence(
        {split_at(is_white_space, SplitBehavior::removed), split_at(is_any_punctuation, SplitBehavior::isolated)});
  }
  if (name == "Whitespace") return whitespace();
  if (name == "WhitespaceSplit") return split_at(is_white_space, SplitBehavior::removed);
  if (name == "Punctuation") {
    const auto behavior = node.find("behavior");
    return split_at(is_any_punctuation, behavior ? read_split_behavior(*behavior) : SplitBehavior::isolated);
  }
  if (name == "Digits") {
    const bool each = node.flag_or("individual_digits", false);
    return split_at(is_numeric, each ? SplitBehavior::isolated : SplitBehavior::contiguous);
  }
  if (name == "CharDelimiterSplit") return delimiter(node);
  type.refuse(
      "Sequence, ByteLevel, Split, Metaspace, BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation, Digits or "
      "CharDelimiterSplit");
}

}  // namespace heed::formats
