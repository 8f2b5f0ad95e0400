// The filters, tests, methods and functions that templates may call.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/jinja/value.h"

namespace heed::formats::jinja {

/// What a call is given behind its first value.
struct Arguments {
  List values;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at a place or by its name; null when it is not given.
  const Value* find(size_t place, std::string_view name) const;
  /// Throws Problem for an argument that `names` does not know.
  void accept(std::initializer_list<std::string_view> names) const;
  std::string text(size_t place, std::string_view name) const;
  std::string text_or(size_t place, std::string_view name, std::string_view absent) const;
  int64_t whole_or(size_t place, std::string_view name, int64_t absent) const;
  bool flag_or(size_t place, std::string_view name, bool absent) const;
};

/// Each throws Problem for a name that it does not know, and for arguments that do not fit.
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments);
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments);
Value call_method(const Value& value, std::string_view name, const Arguments& arguments);
/// raise_exception, range, namespace, dict, strftime_now; null for other names.
bool is_function(std::string_view name);
Value call_function(std::string_view name, const Arguments& arguments);

/// The items that a loop sees: of a list, the keys of a dict, the characters of a string, nothing of an undefined
/// value.
List items_of(const Value& value);
Value attribute_of(const Value& value, std::string_view name);
Value item_of(const Value& value, const Value& index);
Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step);
Value arithmetic(std::string_view sign, const Value& left, const Value& right);
Value negative(const Value& value);
bool compare(std::string_view sign, const Value& left, const Value& right);

/// Python's str.strip() and its halves; of the characters of `set`, or of white space where there is none.
std::string stripped(std::string_view text, const std::string* set, bool left, bool right);
/// Every `from`, or the first `most`, replaced.
std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t most = -1);
std::string capitalized(std::string_view text);
std::string joined(const List& items, std::string_view separator);
std::vector<std::string> lines_of(std::string_view text);

}  // namespace heed::formats::jinja
