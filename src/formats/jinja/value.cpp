#include "formats/jinja/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "formats/unicode.h"
#include "heed/error.h"

namespace heed::formats::jinja {
namespace {

// The fewest digits that read back as the same number, in Python's notation.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer;
  const auto scientific =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string text(buffer.data(), scientific.ptr);
  const int exponent = std::atoi(text.c_str() + text.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string plain(buffer.data(), fixed.ptr);
  if (plain.find('.') == plain.npos) plain += ".0";
  return plain;
}

std::string quoted_as_python(std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    const bool hidden = c < 0x20 || c == 0x7f || is_other(c) || (c != ' ' && is_white_space(c));
    if (c == '\\' || c == static_cast<char32_t>(quote)) {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (hidden) {
      const auto code = static_cast<uint32_t>(c);
      out += c < 0x100     ? fmt::format("\\x{:02x}", code)
             : c < 0x10000 ? fmt::format("\\u{:04x}", code)
                           : fmt::format("\\U{:08x}", code);
    } else {
      append_utf8(out, c);
    }
  }
  return out + quote;
}

std::string quoted_as_json(std::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    constexpr std::string_view kShort = "\"\\\n\r\t\f\b", kNames = "\"\\nrtfb";
    const size_t known = c < 0x80 ? kShort.find(static_cast<char>(c)) : kShort.npos;
    const auto code = static_cast<uint32_t>(c);
    if (known != kShort.npos) {
      out += '\\';
      out += kNames[known];
    } else if (c < 0x20 || (ensure_ascii && c >= 0x7f && c < 0x10000)) {
      out += c == 0x7f ? "\x7f" : fmt::format("\\u{:04x}", code);
    } else if (ensure_ascii && c >= 0x10000) {
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xd7c0 + (code >> 10), 0xdc00 + (code & 0x3ff));
    } else {
      append_utf8(out, c);
    }
  }
  return out + '"';
}

void write_json(std::string& out, const Value& value, const JsonStyle& style, int64_t level) {
  const std::string between = style.item_separator.value_or(style.indent ? "," : ", ");
  const std::string colon = style.key_separator.value_or(": ");
  const auto line = [&](int64_t at) {
    if (!style.indent) return;
    out += '\n';
    out.append(static_cast<size_t>(std::clamp<int64_t>(*style.indent, 0, 64) * at), ' ');
  };
  if (const auto* list = value.list()) {
    out += '[';
    for (size_t i = 0; i < list->size(); ++i) {
      if (i > 0) out += between;
      line(level + 1);
      write_json(out, (*list)[i], style, level + 1);
    }
    if (!list->empty()) line(level);
    out += ']';
  } else if (const auto* dict = value.dict(); dict && !dict->is_namespace) {
    auto items = dict->items;
    if (style.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += between;
      line(level + 1);
      out += quoted_as_json(items[i].first, style.ensure_ascii) + colon;
      write_json(out, items[i].second, style, level + 1);
    }
    if (!items.empty()) line(level);
    out += '}';
  } else if (const auto* text = value.text()) {
    out += quoted_as_json(*text, style.ensure_ascii);
  } else if (const auto* flag = value.as<bool>()) {
    out += *flag ? "true" : "false";
  } else if (value.is_none()) {
    out += "null";
  } else if (const auto* real = value.as<double>(); real && !std::isfinite(*real)) {
    out += std::isnan(*real) ? "NaN" : *real > 0 ? "Infinity" : "-Infinity";
  } else if (value.number()) {
    out += value.repr();
  } else {
    throw Problem(fmt::format("{} cannot be written as JSON", value.kind()));
  }
  check_text(out.size());
}

}  // namespace

void check_text(size_t bytes) {
  if (bytes > kMaxText) throw Problem(fmt::format("a text of {} bytes, accepted: at most {}", bytes, kMaxText));
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Dict::set(std::string_view key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(key, std::move(value));
}

Value Value::tuple(List value) {
  Value made(std::move(value));
  made.is_tuple_ = true;
  return made;
}

Value Value::from_json(const nlohmann::ordered_json& json) {
  if (json.is_object()) {
    Dict dict;
    for (auto item = json.begin(); item != json.end(); ++item) dict.items.emplace_back(item.key(), from_json(*item));
    return dict;
  }
  if (json.is_array()) {
    List list;
    for (const auto& item : json) list.push_back(from_json(item));
    return list;
  }
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    require(invalid_utf8_at(text) == text.npos, "a text for a chat template is no UTF-8 at byte {}",
            invalid_utf8_at(text));
    return text;
  }
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) {
    if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) return json.get<double>();
    return json.get<int64_t>();
  }
  if (json.is_number()) return json.get<double>();
  return Value();
}

const List* Value::list() const {
  const auto* shared = as<std::shared_ptr<const List>>();
  return shared ? shared->get() : nullptr;
}

Dict* Value::dict() const {
  const auto* shared = as<std::shared_ptr<Dict>>();
  return shared ? shared->get() : nullptr;
}

std::optional<int64_t> Value::whole() const {
  if (const auto* flag = as<bool>()) return *flag ? 1 : 0;
  if (const auto* value = as<int64_t>()) return *value;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const auto* real = as<double>()) return *real;
  if (const auto value = whole()) return static_cast<double>(*value);
  return std::nullopt;
}

bool Value::truthy() const {
  if (const auto value = number()) return *value != 0;
  if (text()) return !text()->empty();
  if (list()) return !list()->empty();
  if (dict()) return dict()->is_namespace || !dict()->items.empty();
  return as<Function>() != nullptr;
}

bool Value::equals(const Value& other) const {
  if (whole() && other.whole()) return *whole() == *other.whole();
  if (number() && other.number()) return *number() == *other.number();
  if (text() && other.text()) return *text() == *other.text();
  if (is_none() || other.is_none()) return is_none() && other.is_none();
  if (is_undefined() || other.is_undefined()) return is_undefined() && other.is_undefined();
  if (list() && other.list()) {
    return std::equal(list()->begin(), list()->end(), other.list()->begin(), other.list()->end(),
                      [](const Value& a, const Value& b) { return a.equals(b); });
  }
  if (dict() && other.dict()) {
    if (dict()->is_namespace || other.dict()->is_namespace) return dict() == other.dict();
    const auto& items = dict()->items;
    return items.size() == other.dict()->items.size() && std::all_of(items.begin(), items.end(), [&](const auto& item) {
             const Value* same = other.dict()->find(item.first);
             return same && item.second.equals(*same);
           });
  }
  return false;
}

int Value::nesting(int level) const {
  if (level > kMaxNesting || !(list() || dict())) return level;
  int deepest = level + 1;
  if (list()) {
    for (const auto& item : *list()) deepest = std::max(deepest, item.nesting(level + 1));
  } else {
    for (const auto& item : dict()->items) deepest = std::max(deepest, item.second.nesting(level + 1));
  }
  return deepest;
}

bool Value::holds_namespace() const {
  if (list()) return std::any_of(list()->begin(), list()->end(), [](const Value& v) { return v.holds_namespace(); });
  if (!dict()) return false;
  const auto& items = dict()->items;
  return dict()->is_namespace ||
         std::any_of(items.begin(), items.end(), [](const auto& item) { return item.second.holds_namespace(); });
}

std::string_view Value::kind() const {
  constexpr std::array<std::string_view, 9> kNames = {"an undefined value", "none",   "a bool", "an int",    "a float",
                                                      "a string",           "a list", "a dict", "a function"};
  if (dict() && dict()->is_namespace) return "a namespace";
  return kNames[data_.index()];
}

std::string Value::str() const {
  if (text()) return *text();
  if (is_undefined()) return "";
  return repr();
}

std::string Value::repr() const {
  if (text()) return quoted_as_python(*text());
  if (is_undefined()) return "Undefined";
  if (is_none()) return "None";
  if (const auto* flag = as<bool>()) return *flag ? "True" : "False";
  if (const auto* value = as<int64_t>()) return fmt::format("{}", *value);
  if (const auto* value = as<double>()) return float_text(*value);
  std::string out;
  if (list()) {
    for (const auto& item : *list()) out += (out.empty() ? "" : ", ") + item.repr();
    if (is_tuple_) return "(" + out + (list()->size() == 1 ? ",)" : ")");
    return "[" + out + "]";
  }
  if (dict() && !dict()->is_namespace) {
    for (const auto& [key, item] : dict()->items) {
      out += (out.empty() ? "" : ", ") + quoted_as_python(key) + ": " + item.repr();
    }
    return "{" + out + "}";
  }
  throw Problem(fmt::format("{} cannot be printed", kind()));
}

std::string to_json(const Value& value, const JsonStyle& style) {
  std::string out;
  write_json(out, value, style, 0);
  return out;
}

}  // namespace heed::formats::jinja
