#include "heed/kernels/mask_text.h"

#include <cctype>
#include <charconv>
#include <string>
#include <vector>

#include "heed/error.h"

namespace heed::kernels {
namespace {

constexpr std::string_view kTerms =
    "causal, causal(top_left), window(keys), window(left, right), sinks(count), dilation(step), everything";
constexpr int kMaxDepth = 32;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Mask parse() {
    const auto mask = any_of(0);
    skip_spaces();
    if (at_ != text_.size()) complain("unexpected text");
    return mask;
  }

 private:
  [[noreturn]] void complain(std::string_view what) const {
    fail("mask \"{}\": {} at \"{}\"; terms are {}, combined with & | ~ ( )", text_, what, text_.substr(at_), kTerms);
  }
  void skip_spaces() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool take(char c) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Mask any_of(int depth) {
    auto mask = all_of(depth);
    while (take('|')) mask = mask | all_of(depth);
    return mask;
  }
  Mask all_of(int depth) {
    auto mask = factor(depth);
    while (take('&')) mask = mask & factor(depth);
    return mask;
  }
  Mask factor(int depth) {
    if (depth > kMaxDepth) complain("too deeply nested");
    if (take('~')) return ~factor(depth + 1);
    if (!take('(')) return term();
    const auto mask = any_of(depth + 1);
    if (!take(')')) complain("a closing parenthesis is missing");
    return mask;
  }

  std::string word() {
    skip_spaces();
    const size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_' || text_[at_] == '-'))
      ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }
  std::vector<std::string> arguments() {
    std::vector<std::string> result;
    if (!take('(')) return result;
    do result.push_back(word());
    while (take(','));
    if (!take(')')) complain("a closing parenthesis is missing");
    return result;
  }
  int64_t integer(const std::string& text) const {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      fail("mask \"{}\": \"{}\" is no integer", text_, text);
    return value;
  }

  Mask term() {
    const size_t begin = at_;
    const auto name = word();
    const auto args = arguments();
    if (name == "everything" && args.empty()) return Mask();
    if (name == "causal" && args.empty()) return Causal{};
    if (name == "causal" && args.size() == 1 && (args[0] == "top_left" || args[0] == "bottom_right"))
      return Causal{args[0] == "top_left" ? Alignment::top_left : Alignment::bottom_right};
    if (name == "window" && args.size() == 1) return Window{integer(args[0])};
    if (name == "window" && args.size() == 2) return Window{integer(args[0]), integer(args[1])};
    if (name == "sinks" && args.size() == 1) return SinkTokens{integer(args[0])};
    if (name == "dilation" && args.size() == 1) return Dilation{integer(args[0])};
    at_ = begin;
    complain("no such term");
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Mask parse_mask(std::string_view text) {
  if (text.find_first_not_of(" \t") == std::string_view::npos) return Mask();
  return Parser(text).parse();
}

}  // namespace heed::kernels
