#include "tasks/filler.h"

#include <array>

#include "tasks/words.h"

namespace heed::tasks {
namespace {

constexpr std::string_view kNoise =
    "The rain falls on the roof. A road runs by the river. The lamp burns all night. Nobody is on the stairs. "
    "Morning comes and birds sing. ";

// '#' is an adjective, '@' a noun, '%' a verb.
constexpr std::array<std::string_view, 8> kTemplates = {"The # @ % the @.",
                                                        "One @ % the # @.",
                                                        "Every # @ % some @.",
                                                        "The @ % the # @ near the @.",
                                                        "At noon the @ % the # @.",
                                                        "Nothing % the @ of the @.",
                                                        "When the @ % it, no @ % it.",
                                                        "The @ of the # @ % the @."};

std::string_view pick(std::span<const std::string_view> words, Random& random) {
  return words[random.below(words.size())];
}

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

bool ends_sentence(std::string_view word) {
  size_t end = word.size();
  while (end > 0 && is_blank(word[end - 1])) --end;
  return end > 0 && (word[end - 1] == '.' || word[end - 1] == '!' || word[end - 1] == '?');
}

}  // namespace

Filler Filler::given(std::string_view text) {
  Filler filler;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && !is_blank(text[end])) ++end;
    while (end < text.size() && is_blank(text[end])) ++end;
    filler.words_.emplace_back(text.substr(i, end - i));
    i = end;
  }
  return filler;
}

Filler Filler::noise(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += kNoise;
  return given(text);
}

Filler Filler::prose(size_t bytes, Random& random) {
  std::string text;
  while (text.size() < bytes) {
    for (const char c : kTemplates[random.below(kTemplates.size())]) {
      if (c == '#') {
        text += pick(adjectives(), random);
      } else if (c == '@') {
        text += pick(nouns(), random);
      } else if (c == '%') {
        text += pick(verbs(), random);
      } else {
        text += c;
      }
    }
    text += ' ';
  }
  return given(text);
}

Filler Filler::lines(std::vector<std::string> lines) {
  Filler filler;
  filler.words_ = std::move(lines);
  return filler;
}

std::string Filler::text() const {
  std::string text;
  for (const auto& word : words_) text += word;
  return text;
}

std::vector<std::string> Filler::sentences(size_t count) const {
  std::vector<std::string> result;
  bool open = false;
  for (size_t i = 0; i < count; ++i) {
    if (!open) result.emplace_back();
    result.back() += words_[i];
    open = !ends_sentence(words_[i]);
  }
  if (open) {
    std::string& last = result.back();
    while (!last.empty() && (is_blank(last.back()) || last.back() == ',')) last.pop_back();
    last += ". ";
  }
  return result;
}

}  // namespace heed::tasks
