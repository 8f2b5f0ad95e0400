// A template's source as tokens, with the whitespace rules of transformers: trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heed::formats::jinja {

/// A place in a template, both counted from 1.
struct Position {
  int line = 1, column = 1;
};

struct Token {
  enum class Kind { text, print_begin, print_end, block_begin, block_end, name, string, integer, real, sign, end };
  Kind kind = Kind::end;
  std::string value;  ///< text and strings without quotes and escapes; signs such as "==" and names as they stand
  Position position;
  int64_t integer = 0;
  double real = 0;
};

/// Ends with a token of kind `end`. Throws heed::Error with the position for what is no template.
std::vector<Token> tokenize(std::string_view source, std::string_view name);

[[noreturn]] void fail_at(std::string_view name, Position position, std::string_view what);

}  // namespace heed::formats::jinja
