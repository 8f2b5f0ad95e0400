// Is a piece of XML well-formed? Elements in pairs, attributes quoted, no stray character that starts markup.
#pragma once

#include <cctype>
#include <string>
#include <string_view>
#include <vector>

namespace heed::testing {

/// Empty for well-formed markup, else what is wrong with it. Knows elements, attributes and the five named entities;
/// `void_elements` need no end.
inline std::string xml_complaint(std::string_view text, const std::vector<std::string>& void_elements = {}) {
  std::vector<std::string> open;
  size_t i = 0;
  const auto entity_at = [&](size_t at) {
    const auto end = text.find(';', at);
    if (end == std::string_view::npos || end - at > 8) return false;
    const auto name = text.substr(at + 1, end - at - 1);
    return name == "amp" || name == "lt" || name == "gt" || name == "quot" || name == "ndash" || name == "#39";
  };
  while (i < text.size()) {
    if (text[i] == '&' && !entity_at(i)) return "a bare & at byte " + std::to_string(i);
    if (text[i] == '>') return "a bare > at byte " + std::to_string(i);
    if (text[i] != '<') {
      ++i;
      continue;
    }
    size_t j = i + 1;
    const bool closing = j < text.size() && text[j] == '/';
    if (closing) ++j;
    const size_t name_begin = j;
    while (j < text.size() && (std::isalnum(static_cast<unsigned char>(text[j])) || text[j] == '-')) ++j;
    const std::string name(text.substr(name_begin, j - name_begin));
    if (name.empty()) return "a < without an element at byte " + std::to_string(i);
    bool self_closed = false;
    while (j < text.size() && text[j] != '>') {
      if (std::isspace(static_cast<unsigned char>(text[j]))) {
        ++j;
      } else if (text[j] == '/') {
        self_closed = true;
        ++j;
      } else {
        const auto equals = text.find('=', j);
        if (closing || equals == std::string_view::npos || text[equals + 1] != '"')
          return "an attribute without quotes in " + name;
        const auto end = text.find('"', equals + 2);
        if (end == std::string_view::npos) return "an attribute without an end in " + name;
        const auto value = text.substr(equals + 2, end - equals - 2);
        if (value.find('<') != std::string_view::npos) return "a < in an attribute of " + name;
        for (auto at = value.find('&'); at != std::string_view::npos; at = value.find('&', at + 1))
          if (!entity_at(equals + 2 + at)) return "a bare & in an attribute of " + name;
        j = end + 1;
      }
    }
    if (j >= text.size()) return "an element without an end: " + name;
    i = j + 1;
    if (closing) {
      if (open.empty() || open.back() != name)
        return "an end of " + name + " that closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
      continue;
    }
    bool is_void = self_closed;
    for (const auto& candidate : void_elements) is_void |= candidate == name;
    if (!is_void) open.push_back(name);
    if (name == "style") {
      i = text.find("</style>", i);
      if (i == std::string_view::npos) return "a style without an end";
    }
  }
  return open.empty() ? "" : "an open " + open.back();
}

}  // namespace heed::testing
