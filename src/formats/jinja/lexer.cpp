#include "formats/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

// As Python's rstrip(): Unicode's white space and the four separators of ASCII.
bool is_space(char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); }

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view name) : name_(name) {
    for (size_t i = 0; i < source.size(); ++i) {  // Jinja reads \r\n and \r as \n
      if (source[i] == '\r') {
        source_ += '\n';
        if (source.substr(i + 1).starts_with('\n')) ++i;
      } else {
        source_ += source[i];
      }
    }
    if (source_.ends_with('\n')) source_.pop_back();  // and drops one newline at the end
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) text();
    add(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }

  Position position_of(size_t at) {
    for (; counted_ < at; ++counted_) {
      if (source_[counted_] == '\n') {
        ++place_.line;
        place_.column = 1;
      } else if ((static_cast<unsigned char>(source_[counted_]) & 0xc0) != 0x80) {
        ++place_.column;
      }
    }
    return place_;
  }

  [[noreturn]] void refuse(std::string_view what) { fail_at(name_, position_of(at_), what); }

  Token& add(Token::Kind kind, std::string value) {
    tokens_.push_back({kind, std::move(value), position_of(at_), 0, 0});
    return tokens_.back();
  }

  void skip_spaces() {
    while (at_ < source_.size()) {
      size_t next = at_;
      if (!is_space(next_character(source_, next))) break;
      at_ = next;
    }
  }

  // Text up to the next tag, and that tag.
  void text() {
    size_t open = at_;
    while ((open = source_.find('{', open)) != source_.npos) {
      const char second = open + 1 < source_.size() ? source_[open + 1] : ' ';
      if (second == '{' || second == '%' || second == '#') break;
      ++open;
    }
    if (open == source_.npos) open = source_.size();
    std::string_view body = std::string_view(source_).substr(at_, open - at_);
    const char tag = open < source_.size() ? source_[open + 1] : ' ';
    const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    if (tag != ' ' && sign == '-') {
      while (!body.empty()) {
        const size_t start = previous_start(body, body.size());
        size_t at = start;
        if (!is_space(next_character(body, at))) break;
        body = body.substr(0, start);
      }
    } else if ((tag == '%' || tag == '#') && sign != '+') {
      // A tag that has a line to itself takes its indent along.
      const size_t line = body.rfind('\n') == body.npos ? 0 : body.rfind('\n') + 1;
      const auto indent = body.substr(line);
      const bool blank = std::all_of(indent.begin(), indent.end(), [](unsigned char c) { return is_space(c); });
      if ((line > 0 || line_starts_) && blank) body = body.substr(0, line);
    }
    if (!body.empty()) add(Token::Kind::text, std::string(body));
    at_ = open;
    if (tag == ' ') return;
    if (tag == '#') return comment();
    const Position begin = position_of(at_);
    add(tag == '{' ? Token::Kind::print_begin : Token::Kind::block_begin, "");
    at_ += 2;
    if (rest().starts_with('-') || rest().starts_with('+')) ++at_;
    inside(tag == '{' ? "}}" : "%}", begin);
  }

  // Behind a tag that closes with `close`, at whose sign or brace at_ stands.
  bool closes(std::string_view close) {
    const bool strips = rest().starts_with('-') && rest().substr(1).starts_with(close);
    const bool keeps = close != "}}" && rest().starts_with('+') && rest().substr(1).starts_with(close);
    if (!strips && !keeps && !rest().starts_with(close)) return false;
    at_ += close.size() + (strips || keeps ? 1 : 0);
    line_starts_ = false;
    if (strips) {
      skip_spaces();
      line_starts_ = source_[at_ - 1] == '\n';
    } else if (!keeps && close != "}}" && rest().starts_with('\n')) {
      ++at_;
      line_starts_ = true;
    }
    return true;
  }

  void comment() {
    const size_t begin = at_;
    at_ += 2;
    while (at_ < source_.size()) {
      if (closes("#}")) return;
      ++at_;
    }
    at_ = begin;
    refuse("a comment that does not end");
  }

  void inside(std::string_view close, Position begin) {
    std::string open;  // brackets
    while (true) {
      skip_spaces();
      if (at_ >= source_.size()) fail_at(name_, begin, "a tag that does not end");
      const Position here = position_of(at_);
      if (open.empty() && closes(close)) {
        tokens_.push_back({close == "}}" ? Token::Kind::print_end : Token::Kind::block_end, "", here, 0, 0});
        return;
      }
      const char c = source_[at_];
      if (c == '\'' || c == '"') {
        string();
      } else if (c >= '0' && c <= '9') {
        number();
      } else if (c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        size_t end = at_;
        while (end < source_.size() && (source_[end] == '_' || std::isalnum(static_cast<unsigned char>(source_[end]))))
          ++end;
        add(Token::Kind::name, source_.substr(at_, end - at_));
        at_ = end;
      } else {
        sign(open);
      }
    }
  }

  void sign(std::string& open) {
    constexpr std::array<std::string_view, 25> kSigns = {"//", "**", "==", "!=", "<=", ">=", "(", ")", "[",
                                                         "]",  "{",  "}",  "+",  "-",  "*",  "/", "%", "~",
                                                         "<",  ">",  "=",  ".",  ",",  "|",  ":"};
    std::string_view found;
    for (const auto known : kSigns) {
      if (rest().starts_with(known)) {
        found = known;
        break;
      }
    }
    if (found.empty()) refuse(fmt::format("the character {}", quote(rest().substr(0, 1))));
    if (found == "(" || found == "[" || found == "{") open += found[0];
    if (found == ")" || found == "]" || found == "}") {
      const char partner = found == ")" ? '(' : found == "]" ? '[' : '{';
      if (open.empty() || open.back() != partner) refuse(fmt::format("'{}' without '{}'", found, partner));
      open.pop_back();
    }
    add(Token::Kind::sign, std::string(found));
    at_ += found.size();
  }

  void number() {
    size_t end = at_;
    std::string digits;
    bool real = false;
    const auto is_digit = [&](size_t i) { return i < source_.size() && source_[i] >= '0' && source_[i] <= '9'; };
    for (; is_digit(end) || (end < source_.size() && source_[end] == '_' && is_digit(end + 1)); ++end) {
      if (source_[end] != '_') digits += source_[end];
    }
    // Behind a dot stands an index: x.0.1 is no fraction.
    const bool index = at_ > 0 && source_[at_ - 1] == '.';
    if (!index && end < source_.size() && source_[end] == '.' && is_digit(end + 1)) {
      real = true;
      for (digits += source_[end++]; is_digit(end); ++end) digits += source_[end];
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool signed_exponent = end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
      if (is_digit(end + (signed_exponent ? 2 : 1))) {
        real = true;
        digits += 'e';
        if (source_[end + 1] == '-') digits += '-';
        for (end += signed_exponent ? 2 : 1; is_digit(end); ++end) digits += source_[end];
      }
    }
    Token token{real ? Token::Kind::real : Token::Kind::integer, digits, position_of(at_), 0, 0};
    const auto parsed = real ? std::from_chars(digits.data(), digits.data() + digits.size(), token.real)
                             : std::from_chars(digits.data(), digits.data() + digits.size(), token.integer);
    if (parsed.ec != std::errc()) refuse(fmt::format("the number {}, which is too large", quote(digits)));
    tokens_.push_back(token);
    at_ = end;
  }

  void string() {
    const size_t begin = at_;
    const char mark = source_[at_];
    std::string value;
    size_t at = at_ + 1;
    for (; at < source_.size() && source_[at] != mark; ++at) {
      if (source_[at] != '\\' || at + 1 >= source_.size()) {
        value += source_[at];
        continue;
      }
      constexpr std::string_view kEscapes = "ntrfvab0\\'\"", kMeanings("\n\t\r\f\v\a\b\0\\'\"", 11);
      const char escaped = source_[++at];
      const size_t digits = escaped == 'x' ? 2 : escaped == 'u' ? 4 : escaped == 'U' ? 8 : 0;
      if (const size_t known = kEscapes.find(escaped); known != kEscapes.npos) {
        value += kMeanings[known];
      } else if (digits > 0) {
        uint32_t code = 0;
        const char* first = source_.data() + std::min(at + 1, source_.size());
        const char* last = source_.data() + std::min(at + 1 + digits, source_.size());
        const auto parsed = std::from_chars(first, last, code, 16);
        const bool whole = parsed.ptr == first + digits && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
        if (!whole) refuse("an escape that is no character");
        append_utf8(value, code);
        at += digits;
      } else if (escaped != '\n') {
        value += '\\';
        value += escaped;
      }
    }
    at_ = begin;
    if (at >= source_.size()) refuse("a string that does not end");
    add(Token::Kind::string, std::move(value));
    at_ = at + 1;
  }

  std::string source_;
  std::string_view name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  bool line_starts_ = true;
  size_t counted_ = 0;  // what place_ has seen
  Position place_;
};

}  // namespace

void fail_at(std::string_view name, Position position, std::string_view what) {
  fail("{}: line {}, column {}: {}", name, position.line, position.column, what);
}

std::vector<Token> tokenize(std::string_view source, std::string_view name) {
  const size_t broken = invalid_utf8_at(source);
  require(broken == source.npos, "{}: the template is no UTF-8 at byte {}", name, broken);
  return Lexer(source, name).run();
}

}  // namespace heed::formats::jinja
