#include "formats/tokenizer/token_decoder.h"

#include <array>
#include <charconv>
#include <numeric>

#include "formats/tokenizer/byte_level.h"
#include "formats/tokenizer/pre_tokenizer.h"
#include "formats/tokenizer/split_pattern.h"
#include "formats/unicode.h"

namespace heed::formats {
namespace {

using Tokens = std::vector<std::string>;

template <class Change>
TokenDecoder each_token(Change change) {
  return [change = std::move(change)](Tokens tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = change(std::move(tokens[i]), i, tokens.size());
    return tokens;
  };
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
}

Tokens byte_level(const Tokens& tokens) {
  std::string bytes;
  for (const auto& token : tokens) bytes += from_byte_alphabet(token).value_or(token);
  return {lossy_utf8(std::move(bytes))};
}

// The byte that a token such as <0x61> stands for, or -1. The digits are read as the reference does: a sign counts.
int fallback_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  const char* first = token.data() + (token[3] == '+' ? 4 : 3);
  const char* last = token.data() + 5;
  int byte = -1;
  const auto [end, error] = std::from_chars(first, last, byte, 16);
  return error == std::errc() && end == last && byte >= 0 ? byte : -1;
}

Tokens byte_fallback(const Tokens& tokens) {
  Tokens out;
  std::string bytes;
  const auto flush = [&] {
    // A run of bytes that is no text as a whole is one sign a byte.
    if (invalid_utf8_at(bytes) == bytes.npos) {
      if (!bytes.empty()) out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\xef\xbf\xbd");
    }
    bytes.clear();
  };
  for (const auto& token : tokens) {
    if (const int byte = fallback_byte(token); byte >= 0) {
      bytes += static_cast<char>(byte);
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

TokenDecoder strip(const JsonNode& node) {
  const std::string content = node.at("content").text();
  if (count_characters(content) != 1) node.at("content").refuse("one character");
  const int64_t start = node.at("start").whole(0, 1 << 20), stop = node.at("stop").whole(0, 1 << 20);
  return each_token([=](std::string token, size_t, size_t) {
    size_t begin = 0, end = token.size();
    for (int64_t i = 0; i < start && token.compare(begin, content.size(), content) == 0; ++i) begin += content.size();
    for (int64_t i = 0; i < stop && end >= begin + content.size(); ++i) {
      if (token.compare(end - content.size(), content.size(), content) != 0) break;
      end -= content.size();
    }
    return token.substr(begin, end - begin);
  });
}

TokenDecoder metaspace(const JsonNode& node) {
  const std::string mark = read_metaspace(node);
  const bool prepended = read_prepend_scheme(node) != PrependScheme::never;
  return each_token([=](std::string token, size_t i, size_t) {
    replace_all(token, mark, i == 0 && prepended ? "" : " ");
    return token;
  });
}

TokenDecoder word_piece(const JsonNode& node) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kCleanUp = {{{" .", "."},
                                                                                              {" ?", "?"},
                                                                                              {" !", "!"},
                                                                                              {" ,", ","},
                                                                                              {" ' ", "'"},
                                                                                              {" n't", "n't"},
                                                                                              {" 'm", "'m"},
                                                                                              {" do not", " don't"},
                                                                                              {" 's", "'s"},
                                                                                              {" 've", "'ve"},
                                                                                              {" 're", "'re"}}};
  const std::string prefix = node.text_or("prefix", "##");
  const bool clean_up = node.flag_or("cleanup", true);
  return each_token([=](std::string token, size_t i, size_t) {
    if (i > 0) token = token.starts_with(prefix) ? token.substr(prefix.size()) : " " + token;
    if (clean_up) {
      for (const auto& [from, to] : kCleanUp) replace_all(token, from, to);
    }
    return token;
  });
}

TokenDecoder replace(const JsonNode& node) {
  return each_token([pattern = SplitPattern::read(node.at("pattern")), content = read_replacement(node.at("content"))](
                        const std::string& token, size_t, size_t) { return pattern.replace(token, content); });
}

size_t total_bytes(const Tokens& tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), size_t{0},
                         [](size_t sum, const auto& t) { return sum + t.size(); });
}

}  // namespace

TokenDecoder read_token_decoder(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string name = type.text();
  if (name == "ByteLevel") return byte_level;
  if (name == "ByteFallback") return byte_fallback;
  if (name == "Fuse") {
    return [](const Tokens& tokens) {
      std::string all;
      for (const auto& token : tokens) all += token;
      return Tokens{all};
    };
  }
  if (name == "Strip") return strip(node);
  if (name == "Replace") return replace(node);
  if (name == "Metaspace") return metaspace(node);
  if (name == "WordPiece") return word_piece(node);
  if (name == "BPEDecoder") {
    return each_token([suffix = node.text_or("suffix", "</w>")](std::string token, size_t i, size_t count) {
      replace_all(token, suffix, i + 1 == count ? "" : " ");
      return token;
    });
  }
  if (name == "Sequence") {
    std::vector<TokenDecoder> steps;
    for (const auto& step : node.at("decoders").items()) steps.push_back(read_token_decoder(step));
    return [steps = std::move(steps), source = node.source()](Tokens tokens) {
      const size_t before = total_bytes(tokens);
      for (const auto& step : steps) {
        tokens = step(std::move(tokens));
        check_growth(before, total_bytes(tokens), source);
      }
      return tokens;
    };
  }
  type.refuse("ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, BPEDecoder or Sequence");
}

}  // namespace heed::formats
