#include "formats/tokenizer/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <optional>
#include <utility>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

constexpr size_t kMaxPatternBytes = 16384;

// Oniguruma's pattern in PCRE2's words. In PCRE2 \s holds U+180E, which is no white space; \w lacks marks, and the
// powers and fractions of Latin-1 that Oniguruma counts as well.
std::string translated(std::string_view pattern, std::string_view source) {
  const auto refuse = [&](std::string_view what) {
    fail("{}: the pattern {} has {}, which is not supported", source, quote(pattern), what);
  };
  constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const auto rest = pattern.substr(i);
    if (c == '\\') {
      if (i + 1 == pattern.size()) refuse("a backslash at its end");
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += "\\p{WSpace}";
      } else if (escaped == 'S') {
        out += "\\P{WSpace}";
      } else if (escaped == 'w') {
        out += in_class ? std::string(kWord) : fmt::format("[{}]", kWord);
      } else if (escaped == 'W') {
        if (in_class) refuse("\\W inside brackets");
        out += fmt::format("[^{}]", kWord);
      } else if (escaped == 'h' || escaped == 'H' || escaped == 'K' || escaped == 'C') {
        refuse(fmt::format("\\{}", escaped));
      } else {
        out += c;
        out += escaped;
        const size_t end = pattern.substr(i + 1).starts_with('{') ? pattern.find('}', i) : pattern.npos;
        if (end != pattern.npos) {  // \p{L}, \x{41}
          out += pattern.substr(i + 1, end - i);
          i = end;
        }
      }
      continue;
    }
    if (in_class) {
      if (c == '[' && !rest.starts_with("[:")) refuse("brackets inside brackets");
      if (rest.starts_with("&&")) refuse("&& inside brackets");
      if (rest.starts_with("[:")) {
        const size_t end = pattern.find(":]", i);
        if (end == pattern.npos) refuse("[: without :]");
        out += pattern.substr(i, end + 2 - i);
        i = end + 1;
        continue;
      }
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (rest.starts_with("[^")) out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') out += "\\]", ++i;
      continue;
    } else if (rest.starts_with("(?m") || rest.starts_with("(*")) {
      refuse(rest.substr(0, 3));
    } else if (rest.starts_with("}+")) {
      refuse("}+");  // possessive in PCRE2, repeated in Oniguruma
    }
    out += c;
  }
  return out;
}

}  // namespace

struct SplitPattern::Compiled {
  std::string pattern, source;
  pcre2_code* code = nullptr;

  Compiled(std::string_view given, std::string_view where) : pattern(given), source(where) {
    require(given.size() <= kMaxPatternBytes, "{}: a pattern of {} bytes, accepted: at most {}", where, given.size(),
            kMaxPatternBytes);
    const std::string text = translated(given, where);
    int error = 0;
    PCRE2_SIZE at = 0;
    std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context.get(), 64);
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, context.get());
    if (!code) {
      std::array<PCRE2_UCHAR, 256> message{};
      pcre2_get_error_message(error, message.data(), message.size());
      fail("{}: the pattern {} cannot be read: {}", where, quote(given), reinterpret_cast<const char*>(message.data()));
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, matching is interpreted
  }
  ~Compiled() { pcre2_code_free(code); }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
};

SplitPattern SplitPattern::regex(std::string_view pattern, std::string_view source) {
  SplitPattern made;
  made.compiled_ = std::make_shared<const Compiled>(pattern, source);
  return made;
}

SplitPattern SplitPattern::literal(std::string_view text) {
  SplitPattern made;
  made.literal_ = text;
  return made;
}

SplitPattern SplitPattern::read(const JsonNode& node) {
  if (const auto pattern = node.find("Regex")) return regex(pattern->text(), node.source() + ": " + pattern->place());
  if (const auto pattern = node.find("String")) return literal(pattern->text());
  node.refuse("an object with Regex or String");
}

std::vector<PatternSpan> SplitPattern::find_literal(std::string_view text) const {
  std::vector<PatternSpan> spans;
  size_t done = 0;
  for (size_t at; !literal_.empty() && (at = text.find(literal_, done)) != text.npos; done = at + literal_.size()) {
    if (at > done) spans.push_back({done, at, false});
    spans.push_back({at, at + literal_.size(), true});
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
  return spans;
}

std::vector<PatternSpan> SplitPattern::find(std::string_view text) const {
  if (text.empty()) return {};
  if (!compiled_) return find_literal(text);
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create_from_pattern(compiled_->code, nullptr), pcre2_match_data_free);
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(pcre2_match_context_create(nullptr),
                                                                                    pcre2_match_context_free);
  // A long run of spaces is walked back once; more than that is a pattern made to hang.
  const size_t steps = 1'000'000 + 16 * text.size();
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<size_t>(steps, UINT32_MAX)));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());

  std::vector<PatternSpan> spans;
  std::optional<size_t> last_match;
  size_t done = 0;
  for (size_t from = 0; from <= text.size();) {
    int found =
        pcre2_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, match.get(), context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(),
                          context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    require(found > 0, "{}: the pattern {} takes too many steps on a text of {} bytes", compiled_->source,
            quote(compiled_->pattern), text.size());
    const auto* offsets = pcre2_get_ovector_pointer(match.get());
    const size_t begin = offsets[0], end = offsets[1];
    require(begin <= end && begin >= from, "{}: the pattern {} matches backwards", compiled_->source,
            quote(compiled_->pattern));
    if (begin == end && last_match == end) {  // an empty match right behind the last one would be found for ever
      if (from == text.size()) break;
      next_character(text, from);
      continue;
    }
    if (begin > done) spans.push_back({done, begin, false});
    spans.push_back({begin, end, true});
    done = from = end;
    last_match = end;
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
  return spans;
}

std::string SplitPattern::replace(std::string_view text, std::string_view content) const {
  std::string out;
  out.reserve(text.size());
  for (const auto& span : find(text)) out += span.match ? content : text.substr(span.begin, span.end - span.begin);
  return out;
}

std::string read_replacement(const JsonNode& node) {
  const std::string text = node.text();
  if (text.size() > kMaxReplacement) node.refuse(fmt::format("at most {} bytes", kMaxReplacement));
  return text;
}

void check_growth(size_t before, size_t after, std::string_view source) {
  require(after <= 64 * before + 65536, "{}: its rules make {} bytes of {}, accepted: at most 64 times as many", source,
          after, before);
}

SplitBehavior read_split_behavior(const JsonNode& node) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {
      {{"Isolated", SplitBehavior::isolated},
       {"Removed", SplitBehavior::removed},
       {"Contiguous", SplitBehavior::contiguous},
       {"MergedWithPrevious", SplitBehavior::merged_with_previous},
       {"MergedWithNext", SplitBehavior::merged_with_next}}};
  const std::string given = node.text();
  for (const auto& [name, behavior] : kNames) {
    if (given == name) return behavior;
  }
  node.refuse("Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
}

std::vector<std::string_view> split_pieces(std::string_view text, const std::vector<PatternSpan>& spans,
                                           SplitBehavior behavior) {
  std::vector<PatternSpan> parts;
  for (size_t i = 0; i < spans.size(); ++i) {
    const bool repeats = i > 0 && spans[i - 1].match == spans[i].match;
    bool joins = false;  // the part before
    switch (behavior) {
      case SplitBehavior::isolated:
        break;
      case SplitBehavior::removed:
        if (spans[i].match) continue;
        break;
      case SplitBehavior::contiguous:
        joins = repeats;
        break;
      case SplitBehavior::merged_with_previous:
        joins = i > 0 && spans[i].match && !spans[i - 1].match;
        break;
      case SplitBehavior::merged_with_next:
        joins = i > 0 && spans[i - 1].match && !spans[i].match;
        break;
    }
    if (joins) {
      parts.back().end = spans[i].end;
    } else {
      parts.push_back(spans[i]);
    }
  }
  std::vector<std::string_view> pieces;
  pieces.reserve(parts.size());
  for (const auto& part : parts) {
    if (part.end > part.begin) pieces.push_back(text.substr(part.begin, part.end - part.begin));
  }
  return pieces;
}

std::vector<PatternSpan> find_characters(std::string_view text, bool (*matches)(char32_t)) {
  std::vector<PatternSpan> spans;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!matches(next_character(text, at))) continue;
    if (begin > done) spans.push_back({done, begin, false});
    spans.push_back({begin, at, true});
    done = at;
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
  return spans;
}

}  // namespace heed::formats
