#include "formats/tokenizer/normalizer.h"

#include "formats/tokenizer/byte_level.h"
#include "formats/tokenizer/split_pattern.h"
#include "formats/unicode.h"

namespace heed::formats {
namespace {

// `change(out, c)` appends what becomes of a character.
template <class Change>
std::string each_character(const std::string& text, const Change& change) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) change(out, next_character(text, at));
  return out;
}

template <class Predicate>
std::string without(const std::string& text, const Predicate& dropped) {
  return each_character(text, [&](std::string& out, char32_t c) {
    if (!dropped(c)) append_utf8(out, c);
  });
}

// The blocks that BERT's own code lists; not all of what Unicode calls Han.
bool is_chinese(char32_t c) {
  return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
         (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
         (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

std::string clean_text(const std::string& text) {
  return each_character(text, [](std::string& out, char32_t c) {
    const bool space = c == '\t' || c == '\n' || c == '\r';
    if (c == 0 || c == 0xfffd || (!space && is_other(c))) return;
    append_utf8(out, is_white_space(c) ? U' ' : c);
  });
}

std::string space_out_chinese(const std::string& text) {
  return each_character(text, [](std::string& out, char32_t c) {
    if (is_chinese(c)) out += ' ';
    append_utf8(out, c);
    if (is_chinese(c)) out += ' ';
  });
}

Normalizer bert(const JsonNode& node) {
  const bool clean = node.flag_or("clean_text", true), chinese = node.flag_or("handle_chinese_chars", true);
  const bool lower = node.flag_or("lowercase", true), accents = node.flag_or("strip_accents", lower);
  return [=](std::string text) {
    if (clean) text = clean_text(text);
    if (chinese) text = space_out_chinese(text);
    if (accents) text = without(normalized(text, NormalForm::nfd), is_nonspacing_mark);
    if (lower) text = lower_case(text);
    return text;
  };
}

// SentencePiece's own rules (nmt_nfkc) for control characters and spaces.
std::string nmt(const std::string& text) {
  return each_character(text, [](std::string& out, char32_t c) {
    const bool control =
        (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
    if (control) return;
    const bool space = c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) ||
                       c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
    append_utf8(out, space ? U' ' : c);
  });
}

std::string strip(std::string text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  for (size_t at = 0; left && at < end; begin = at) {
    if (!is_white_space(next_character(text, at))) break;
  }
  while (right && end > begin) {
    const size_t start = previous_start(text, end);
    size_t at = start;
    if (!is_white_space(next_character(text, at))) break;
    end = start;
  }
  return text.substr(begin, end - begin);
}

Normalizer replace(const JsonNode& node) {
  return [pattern = SplitPattern::read(node.at("pattern")), content = read_replacement(node.at("content"))](
             const std::string& text) { return pattern.replace(text, content); };
}

Normalizer sequence(const JsonNode& node) {
  std::vector<Normalizer> steps;
  for (const auto& step : node.at("normalizers").items()) steps.push_back(read_normalizer(step));
  return [steps = std::move(steps), source = node.source()](std::string text) {
    const size_t before = text.size();
    for (const auto& step : steps) {
      text = step(std::move(text));
      check_growth(before, text.size(), source);
    }
    return text;
  };
}

Normalizer to_form(NormalForm form) {
  return [form](const std::string& text) { return normalized(text, form); };
}

}  // namespace

Normalizer read_normalizer(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string name = type.text();
  if (name == "Sequence") return sequence(node);
  if (name == "BertNormalizer") return bert(node);
  if (name == "NFC") return to_form(NormalForm::nfc);
  if (name == "NFD") return to_form(NormalForm::nfd);
  if (name == "NFKC") return to_form(NormalForm::nfkc);
  if (name == "NFKD") return to_form(NormalForm::nfkd);
  if (name == "Lowercase") return [](const std::string& text) { return lower_case(text); };
  if (name == "StripAccents") return [](const std::string& text) { return without(text, is_mark); };
  if (name == "Nmt") return nmt;
  if (name == "Replace") return replace(node);
  if (name == "ByteLevel") return [](const std::string& text) { return to_byte_alphabet(text); };
  if (name == "Strip") {
    return [left = node.at("strip_left").flag(), right = node.at("strip_right").flag()](std::string text) {
      return strip(std::move(text), left, right);
    };
  }
  if (name == "Prepend") {
    return [before = read_replacement(node.at("prepend"))](std::string text) {
      return text.empty() ? text : before + text;
    };
  }
  type.refuse(
      "Sequence, BertNormalizer, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, Nmt or "
      "ByteLevel");
}

}  // namespace heed::formats
