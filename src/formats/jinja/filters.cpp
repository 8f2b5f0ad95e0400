#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "formats/jinja/builtins.h"
#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

using Filter = Value (*)(const Value&, const Arguments&);

// "a.b.0" walks into an item, as Jinja's attribute arguments do.
Value walk(Value item, std::string_view path) {
  while (!path.empty()) {
    const size_t dot = std::min(path.find('.'), path.size());
    const auto part = path.substr(0, dot);
    int64_t number = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), number);
    const bool whole = parsed.ec == std::errc() && parsed.ptr == part.data() + part.size() && part[0] != '-';
    item = whole ? item_of(item, number) : item_of(item, part);
    path = path.substr(std::min(dot + 1, path.size()));
  }
  return item;
}

Arguments behind(const Arguments& arguments, size_t places) {
  Arguments rest;
  rest.values.assign(arguments.values.begin() + static_cast<ptrdiff_t>(std::min(places, arguments.values.size())),
                     arguments.values.end());
  return rest;
}

// select, reject, and the same by an attribute: the items for which a test says `wanted`.
Value select(const Value& value, const Arguments& arguments, bool by_attribute, bool wanted) {
  if (!arguments.named.empty()) throw Problem("arguments with names, accepted: none");
  const size_t place = by_attribute ? 1 : 0;
  const std::string path = by_attribute ? arguments.text(0, "the attribute") : "";
  List chosen;
  for (auto& item : items_of(value)) {
    const Value subject = by_attribute ? walk(item, path) : item;
    const bool holds = arguments.values.size() > place
                           ? apply_test(arguments.text(place, "the test"), subject, behind(arguments, place + 1))
                           : subject.truthy();
    if (holds == wanted) chosen.push_back(std::move(item));
  }
  return chosen;
}

Value map(const Value& value, const Arguments& arguments) {
  List made;
  if (const Value* attribute = arguments.find(SIZE_MAX, "attribute")) {
    const Value* absent = arguments.find(SIZE_MAX, "default");
    if (!arguments.values.empty() || !attribute->text()) throw Problem("map() takes an attribute or a filter");
    for (const auto& item : items_of(value)) {
      Value found = walk(item, *attribute->text());
      made.push_back(found.is_undefined() && absent ? *absent : found);
    }
  } else {
    const std::string filter = arguments.text(0, "the filter");
    Arguments rest = behind(arguments, 1);
    rest.named = arguments.named;
    for (const auto& item : items_of(value)) made.push_back(apply_filter(filter, item, rest));
  }
  return made;
}

Value length(const Value& value, const Arguments& arguments) {
  arguments.accept({});
  if (value.text()) return static_cast<int64_t>(count_characters(*value.text()));
  return static_cast<int64_t>(items_of(value).size());
}

Value edge(const Value& value, const Arguments& arguments, bool last) {
  arguments.accept({});
  const List items = items_of(value);
  if (items.empty()) return Value::Undefined{"an item of an empty list"};
  return last ? items.back() : items.front();
}

Value reverse(const Value& value, const Arguments& arguments) {
  arguments.accept({});
  List items = items_of(value);
  std::reverse(items.begin(), items.end());
  if (value.text()) return joined(items, "");
  return items;
}

Value otherwise(const Value& value, const Arguments& arguments) {
  arguments.accept({"default_value", "boolean"});
  const bool missing = value.is_undefined() || (arguments.flag_or(1, "boolean", false) && !value.truthy());
  const Value* other = arguments.find(0, "default_value");
  return !missing ? value : other ? *other : Value("");
}

Value json(const Value& value, const Arguments& arguments) {
  arguments.accept({"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = arguments.flag_or(0, "ensure_ascii", false);
  if (const Value* indent = arguments.find(1, "indent"); indent && !indent->is_none()) {
    style.indent = arguments.whole_or(1, "indent", 0);
  }
  if (const Value* separators = arguments.find(2, "separators"); separators && !separators->is_none()) {
    const List* pair = separators->list();
    if (!pair || pair->size() != 2 || !(*pair)[0].text() || !(*pair)[1].text()) {
      throw Problem("separators must be two strings");
    }
    style.item_separator = *(*pair)[0].text();
    style.key_separator = *(*pair)[1].text();
  }
  style.sort_keys = arguments.flag_or(3, "sort_keys", false);
  return to_json(value, style);
}

Value join(const Value& value, const Arguments& arguments) {
  arguments.accept({"d", "attribute"});
  List items = items_of(value);
  if (arguments.find(1, "attribute")) {
    const std::string path = arguments.text(1, "attribute");
    for (auto& item : items) item = walk(item, path);
  }
  const Value* separator = arguments.find(0, "d");
  return joined(items, separator ? separator->str() : "");
}

Value indent(const Value& value, const Arguments& arguments) {
  arguments.accept({"width", "first", "blank"});
  const Value* given = arguments.find(0, "width");
  const int64_t width = given && given->text() ? 0 : arguments.whole_or(0, "width", 4);
  if (width > 1000) throw Problem("an indent of more than 1000");
  const std::string space =
      given && given->text() ? *given->text() : std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  const bool first = arguments.flag_or(1, "first", false), blank = arguments.flag_or(2, "blank", false);
  const auto lines = lines_of(value.str() + "\n");
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) out += space;
    out += lines[i];
    check_text(out.size());
  }
  return out;
}

Value to_whole(const Value& value, const Arguments& arguments) {
  arguments.accept({"default"});
  if (value.whole()) return *value.whole();
  if (const auto* real = value.as<double>(); real && std::abs(*real) < 9e18) return static_cast<int64_t>(*real);
  if (value.text()) {
    std::string digits = stripped(*value.text(), nullptr, true, true);
    if (digits.starts_with('+')) digits.erase(0, 1);
    int64_t number = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return number;
    double real = 0;
    const auto approximate = std::from_chars(digits.data(), digits.data() + digits.size(), real);
    const bool reads = approximate.ec == std::errc() && approximate.ptr == digits.data() + digits.size();
    if (reads && std::abs(real) < 9e18) return static_cast<int64_t>(real);
  }
  return arguments.whole_or(0, "default", 0);
}

Value to_real(const Value& value, const Arguments& arguments) {
  arguments.accept({"default"});
  if (value.number()) return *value.number();
  if (value.text()) {
    const std::string digits = stripped(*value.text(), nullptr, true, true);
    double real = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), real);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return real;
  }
  const Value* absent = arguments.find(0, "default");
  return absent ? *absent : Value(0.0);
}

Value unique(const Value& value, const Arguments& arguments) {
  arguments.accept({});
  const auto folded = [](const Value& item) { return item.text() ? Value(lower_case(*item.text())) : item; };
  List made, seen;
  for (const auto& item : items_of(value)) {
    const Value key = folded(item);
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return other.equals(key); })) continue;
    seen.push_back(key);
    made.push_back(item);
    if (made.size() > 4096) throw Problem("unique of more than 4096 items");
  }
  return made;
}

Value pairs(const Value& value, const Arguments& arguments) {
  arguments.accept({});
  if (value.is_undefined()) return List();
  if (!value.dict()) throw Problem(fmt::format("items of {}", value.kind()));
  return call_method(value, "items", {});
}

Value sorted_pairs(const Value& value, const Arguments& arguments) {
  List made = *pairs(value, arguments).list();
  std::stable_sort(made.begin(), made.end(), [](const Value& a, const Value& b) {
    return lower_case(*a.list()->front().text()) < lower_case(*b.list()->front().text());
  });
  return made;
}

Value plain(const Value& value, const Arguments& arguments, std::string (*change)(std::string_view)) {
  arguments.accept({});
  return change(value.str());
}

Value absolute(const Value& value, const Arguments& arguments) {
  arguments.accept({});
  if (!value.number()) throw Problem(fmt::format("abs of {}", value.kind()));
  return *value.number() < 0 ? negative(value) : value;
}

Value trim(const Value& value, const Arguments& arguments) {
  arguments.accept({"chars"});
  const Value* set = arguments.find(0, "chars");
  return stripped(value.str(), set ? set->text() : nullptr, true, true);
}

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> kFilters = {
      {"abs", absolute},
      {"capitalize", [](const Value& v, const Arguments& a) { return plain(v, a, capitalized); }},
      {"count", length},
      {"d", otherwise},
      {"default", otherwise},
      {"dictsort", sorted_pairs},
      {"first", [](const Value& v, const Arguments& a) { return edge(v, a, false); }},
      {"float", to_real},
      {"indent", indent},
      {"int", to_whole},
      {"items", pairs},
      {"join", join},
      {"last", [](const Value& v, const Arguments& a) { return edge(v, a, true); }},
      {"length", length},
      {"list", [](const Value& v, const Arguments& a) { return a.accept({}), Value(items_of(v)); }},
      {"lower", [](const Value& v, const Arguments& a) { return plain(v, a, lower_case); }},
      {"map", map},
      {"reject", [](const Value& v, const Arguments& a) { return select(v, a, false, false); }},
      {"rejectattr", [](const Value& v, const Arguments& a) { return select(v, a, true, false); }},
      {"replace",
       [](const Value& v, const Arguments& a) {
         a.accept({"old", "new", "count"});
         return Value(replaced(v.str(), a.text(0, "old"), a.text(1, "new"), a.whole_or(2, "count", -1)));
       }},
      {"reverse", reverse},
      {"safe", [](const Value& v, const Arguments& a) { return a.accept({}), Value(v.str()); }},
      {"select", [](const Value& v, const Arguments& a) { return select(v, a, false, true); }},
      {"selectattr", [](const Value& v, const Arguments& a) { return select(v, a, true, true); }},
      {"string", [](const Value& v, const Arguments& a) { return a.accept({}), Value(v.str()); }},
      {"tojson", json},
      {"trim", trim},
      {"unique", unique},
      {"upper", [](const Value& v, const Arguments& a) { return plain(v, a, upper_case); }},
  };
  return kFilters;
}

}  // namespace

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments) {
  const auto found = filters().find(name);
  if (found != filters().end()) return found->second(value, arguments);
  std::string known;
  for (const auto& filter : filters()) known.append(known.empty() ? "" : ", ").append(filter.first);
  throw Problem(fmt::format("the filter {}, accepted: {}", quote(name), known));
}

}  // namespace heed::formats::jinja
