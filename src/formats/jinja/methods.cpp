// Methods of strings and dictionaries.
#include <algorithm>

#include "formats/jinja/builtins.h"
#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

List to_list(const std::vector<std::string>& texts) { return {texts.begin(), texts.end()}; }

std::vector<std::string> words_of(std::string_view text, int64_t most) {
  std::vector<std::string> words;
  std::string_view rest = text;
  while (true) {
    const std::string left = stripped(rest, nullptr, true, false);
    rest = rest.substr(rest.size() - left.size());
    if (rest.empty()) return words;
    if (most >= 0 && static_cast<int64_t>(words.size()) == most) {
      words.push_back(left);
      return words;
    }
    size_t end = 0;
    for (size_t at = 0; at < rest.size(); end = at) {
      if (is_white_space(next_character(rest, at))) break;
    }
    words.emplace_back(rest.substr(0, end));
    rest = rest.substr(end);
  }
}

std::vector<std::string> split(std::string_view text, const Arguments& arguments) {
  arguments.accept({"sep", "maxsplit"});
  const Value* given = arguments.find(0, "sep");
  const int64_t most = arguments.whole_or(1, "maxsplit", -1);
  if (!given || given->is_none()) return words_of(text, most);
  const std::string separator = arguments.text(0, "sep");
  if (separator.empty()) throw Problem("split() at an empty string");
  std::vector<std::string> parts;
  size_t done = 0;
  for (size_t at; (at = text.find(separator, done)) != text.npos; done = at + separator.size()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) break;
    parts.emplace_back(text.substr(done, at - done));
  }
  parts.emplace_back(text.substr(done));
  return parts;
}

// At the end or the start of a text stands one string, or one of several.
bool has_affix(const std::string& text, const Arguments& arguments, bool at_end) {
  arguments.accept({"affix"});
  const auto has = [&](const Value& affix) {
    if (!affix.text()) throw Problem(fmt::format("{} where a string is expected", affix.kind()));
    return at_end ? text.ends_with(*affix.text()) : text.starts_with(*affix.text());
  };
  const Value* affix = arguments.find(0, "affix");
  if (!affix) throw Problem("an argument is missing");
  if (!affix->list()) return has(*affix);
  return std::any_of(affix->list()->begin(), affix->list()->end(), has);
}

std::string strip(const std::string& text, const Arguments& arguments, bool left, bool right) {
  arguments.accept({"chars"});
  const Value* set = arguments.find(0, "chars");
  if (set && !set->is_none() && !set->text()) throw Problem(fmt::format("{} where a string is expected", set->kind()));
  return stripped(text, set ? set->text() : nullptr, left, right);
}

// Letters behind no letter in upper case, the others in lower case.
std::string titled(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    next_character(text, at);
    const auto character = text.substr(begin, at - begin);
    const std::string low = lower_case(character), high = upper_case(character);
    out += inside ? low : high;
    inside = low != high;
  }
  return out;
}

Value text_method(const std::string& text, std::string_view name, const Arguments& arguments) {
  if (name == "strip") return strip(text, arguments, true, true);
  if (name == "lstrip") return strip(text, arguments, true, false);
  if (name == "rstrip") return strip(text, arguments, false, true);
  if (name == "split") return to_list(split(text, arguments));
  if (name == "startswith") return has_affix(text, arguments, false);
  if (name == "endswith") return has_affix(text, arguments, true);
  if (name == "replace") {
    arguments.accept({"old", "new", "count"});
    return replaced(text, arguments.text(0, "old"), arguments.text(1, "new"), arguments.whole_or(2, "count", -1));
  }
  if (name == "join") {
    arguments.accept({"iterable"});
    const Value* items = arguments.find(0, "iterable");
    if (!items) throw Problem("an argument is missing");
    const List list = items_of(*items);
    for (const auto& item : list) {
      if (!item.text()) throw Problem(fmt::format("join() of {}", item.kind()));
    }
    return joined(list, text);
  }
  if (name == "find" || name == "count") {
    arguments.accept({"sub"});
    const std::string part = arguments.text(0, "sub");
    if (name == "find") {
      const size_t at = text.find(part);
      return at == text.npos ? int64_t{-1}
                             : static_cast<int64_t>(count_characters(std::string_view(text).substr(0, at)));
    }
    if (part.empty()) return static_cast<int64_t>(count_characters(text)) + 1;
    int64_t count = 0;
    for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++count;
    return count;
  }
  arguments.accept({});
  if (name == "upper") return upper_case(text);
  if (name == "lower") return lower_case(text);
  if (name == "capitalize") return capitalized(text);
  if (name == "title") return titled(text);
  if (name == "splitlines") return to_list(lines_of(text));
  throw Problem(
      fmt::format("the method {} of a string, accepted: strip, lstrip, rstrip, split, splitlines, startswith, "
                  "endswith, replace, join, find, count, upper, lower, title, capitalize",
                  quote(name)));
}

}  // namespace

Value call_method(const Value& value, std::string_view name, const Arguments& arguments) {
  if (value.text()) return text_method(*value.text(), name, arguments);
  if (value.dict() && !value.dict()->is_namespace) {
    const Dict& dict = *value.dict();
    if (name == "get") {
      arguments.accept({"key", "default"});
      const Value* key = arguments.find(0, "key");
      const Value* found = key && key->text() ? dict.find(*key->text()) : nullptr;
      const Value* absent = arguments.find(1, "default");
      return found ? *found : absent ? *absent : Value();
    }
    if (name == "items" || name == "keys" || name == "values") {
      arguments.accept({});
      List made;
      for (const auto& [key, item] : dict.items) {
        made.push_back(name == "keys" ? Value(key) : name == "values" ? item : Value::tuple({key, item}));
      }
      return made;
    }
    throw Problem(fmt::format("the method {} of a dict, accepted: get, items, keys, values", quote(name)));
  }
  if (value.is_undefined()) throw Problem(fmt::format("{} is undefined", quote(value.as<Value::Undefined>()->name)));
  throw Problem(fmt::format("the method {} of {}", quote(name), value.kind()));
}

std::string stripped(std::string_view text, const std::string* set, bool left, bool right) {
  const auto goes = [&](std::string_view character) {
    size_t at = 0;
    const char32_t c = next_character(character, at);
    return set ? set->find(character) != set->npos : is_white_space(c) || (c >= 0x1c && c <= 0x1f);
  };
  while (left && !text.empty()) {
    size_t end = 0;
    next_character(text, end);
    if (!goes(text.substr(0, end))) break;
    text = text.substr(end);
  }
  while (right && !text.empty()) {
    const size_t start = previous_start(text, text.size());
    if (!goes(text.substr(start))) break;
    text = text.substr(0, start);
  }
  return std::string(text);
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t most) {
  if (from.empty()) throw Problem("the replacement of an empty string, which is not supported");
  std::string out;
  size_t done = 0;
  for (size_t at; most != 0 && (at = text.find(from, done)) != text.npos; done = at + from.size(), --most) {
    out.append(text.substr(done, at - done)).append(to);
    check_text(out.size());
  }
  return out.append(text.substr(done));
}

std::string capitalized(std::string_view text) {
  if (text.empty()) return "";
  size_t first = 0;
  next_character(text, first);
  return upper_case(text.substr(0, first)) + lower_case(text.substr(first));
}

std::string joined(const List& items, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += items[i].str();
    check_text(out.size());
  }
  return out;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_character(text, at);
    const bool ends = (c >= 0xa && c <= 0xd) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    if (c == '\r' && text.substr(at).starts_with('\n')) ++at;
    lines.emplace_back(text.substr(begin, end - begin));
    begin = at;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

}  // namespace heed::formats::jinja
