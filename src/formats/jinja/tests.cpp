// What stands behind "is".
#include <array>

#include "formats/jinja/builtins.h"
#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

struct Comparison {
  std::string_view name, sign;
};
constexpr std::array<Comparison, 17> kComparisons = {{{"==", "=="},
                                                      {"eq", "=="},
                                                      {"equalto", "=="},
                                                      {"!=", "!="},
                                                      {"ne", "!="},
                                                      {"<", "<"},
                                                      {"lt", "<"},
                                                      {"lessthan", "<"},
                                                      {"<=", "<="},
                                                      {"le", "<="},
                                                      {">", ">"},
                                                      {"gt", ">"},
                                                      {"greaterthan", ">"},
                                                      {">=", ">="},
                                                      {"ge", ">="},
                                                      {"in", "in"},
                                                      {"sameas", "=="}}};

int64_t whole_of(const Value& value) {
  if (!value.whole()) throw Problem(fmt::format("{} where an int is expected", value.kind()));
  return *value.whole();
}

}  // namespace

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments) {
  for (const auto& [known, sign] : kComparisons) {
    if (name != known) continue;
    arguments.accept({"other"});
    const Value* other = arguments.find(0, "other");
    if (!other) throw Problem(fmt::format("the test '{}' without a value to compare with", name));
    return compare(sign, value, *other);
  }
  if (name == "divisibleby") {
    arguments.accept({"num"});
    const int64_t by = arguments.whole_or(0, "num", 0);
    if (by == 0) throw Problem("a division by zero");
    return by == -1 || whole_of(value) % by == 0;
  }
  arguments.accept({});
  const bool is_bool = value.as<bool>() != nullptr;
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "string") return value.text() != nullptr;
  if (name == "mapping") return value.dict() && !value.dict()->is_namespace;
  if (name == "sequence" || name == "iterable") {
    return value.text() || value.list() || (value.dict() && !value.dict()->is_namespace) || value.is_undefined();
  }
  if (name == "number") return value.number().has_value();
  if (name == "integer") return value.as<int64_t>() != nullptr;
  if (name == "float") return value.as<double>() != nullptr;
  if (name == "boolean") return is_bool;
  if (name == "true") return is_bool && value.truthy();
  if (name == "false") return is_bool && !value.truthy();
  if (name == "callable") return value.as<Value::Function>() != nullptr;
  if (name == "odd") return whole_of(value) % 2 != 0;
  if (name == "even") return whole_of(value) % 2 == 0;
  if (name == "lower" || name == "upper") {  // Python's islower(): no letter of the other case, and one that has a case
    const std::string text = value.str(), low = lower_case(text), high = upper_case(text);
    return low != high && text == (name == "lower" ? low : high);
  }
  throw Problem(
      fmt::format("the test {}, accepted: defined, undefined, none, string, mapping, sequence, iterable, number, "
                  "integer, float, boolean, true, false, callable, odd, even, divisibleby, lower, upper, in, sameas, "
                  "equalto and the other comparisons",
                  quote(name)));
}

}  // namespace heed::formats::jinja
