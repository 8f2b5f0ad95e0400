#include <algorithm>
#include <cmath>

#include "formats/jinja/builtins.h"
#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

[[noreturn]] void undefined(const Value& value) {
  throw Problem(fmt::format("{} is undefined", quote(value.as<Value::Undefined>()->name)));
}

[[noreturn]] void unfit(std::string_view sign, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (value->is_undefined()) undefined(*value);
  }
  throw Problem(fmt::format("'{}' between {} and {}", sign, left.kind(), right.kind()));
}

Value whole_arithmetic(std::string_view sign, int64_t left, int64_t right) {
  int64_t result = 0;
  bool overflow = false;
  if (sign == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (sign == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (sign == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else if (sign == "**") {
    if (right < 0) return std::pow(static_cast<double>(left), static_cast<double>(right));
    result = 1;
    const bool trivial = left == 0 || left == 1 || left == -1;
    if (trivial) right = right % 2 == 0 ? std::min<int64_t>(right, 2) : 1;
    for (int64_t i = 0; i < right && !overflow; ++i) overflow = __builtin_mul_overflow(result, left, &result);
  } else {
    if (right == 0) throw Problem("a division by zero");
    if (sign == "/") return static_cast<double>(left) / static_cast<double>(right);
    overflow = left == INT64_MIN && right == -1;
    if (!overflow) {  // both round down, as in Python
      const int64_t remainder = left % right;
      const bool down = remainder != 0 && (remainder < 0) != (right < 0);
      result = sign == "//" ? left / right - (down ? 1 : 0) : remainder + (down ? right : 0);
    }
  }
  if (overflow) throw Problem(fmt::format("{} {} {} is beyond 64 bits", left, sign, right));
  return result;
}

Value real_arithmetic(std::string_view sign, double left, double right) {
  if (sign == "+") return left + right;
  if (sign == "-") return left - right;
  if (sign == "*") return left * right;
  if (sign == "**") return std::pow(left, right);
  if (right == 0) throw Problem("a division by zero");
  if (sign == "/") return left / right;
  const double remainder = std::fmod(left, right);
  const bool down = remainder != 0 && (remainder < 0) != (right < 0);
  return sign == "%" ? remainder + (down ? right : 0) : std::floor(left / right);
}

std::optional<int64_t> bound(const Value& value) {
  if (value.is_none()) return std::nullopt;
  if (!value.whole()) throw Problem(fmt::format("a slice with {}, accepted: int or none", value.kind()));
  return value.whole();
}

}  // namespace

Value arithmetic(std::string_view sign, const Value& left, const Value& right) {
  if (sign == "~") return left.str() + right.str();
  if (left.whole() && right.whole()) return whole_arithmetic(sign, *left.whole(), *right.whole());
  if (left.number() && right.number()) return real_arithmetic(sign, *left.number(), *right.number());
  if (sign == "+" && left.text() && right.text()) return *left.text() + *right.text();
  if (sign == "+" && left.list() && right.list()) {
    List both = *left.list();
    both.insert(both.end(), right.list()->begin(), right.list()->end());
    return both;
  }
  if (sign == "*" && left.text() && right.whole()) {
    const auto times = static_cast<size_t>(std::max<int64_t>(0, *right.whole()));
    if (times > 0 && left.text()->size() > kMaxText / times) check_text(kMaxText + 1);
    std::string many;
    for (size_t i = 0; i < times && !left.text()->empty(); ++i) many += *left.text();
    return many;
  }
  unfit(sign, left, right);
}

Value negative(const Value& value) {
  if (value.whole()) return whole_arithmetic("-", 0, *value.whole());
  if (const auto* real = value.as<double>()) return -*real;
  if (value.is_undefined()) undefined(value);
  throw Problem(fmt::format("'-' before {}", value.kind()));
}

bool compare(std::string_view sign, const Value& left, const Value& right) {
  if (sign == "==") return left.equals(right);
  if (sign == "!=") return !left.equals(right);
  if (sign == "in" || sign == "not in") {
    bool found = false;
    if (right.text()) {
      if (!left.text()) unfit(sign, left, right);
      found = right.text()->find(*left.text()) != std::string::npos;
    } else if (right.dict() && !right.dict()->is_namespace) {
      found = left.text() && right.dict()->find(*left.text());
    } else {
      const List items = items_of(right);
      found = std::any_of(items.begin(), items.end(), [&](const Value& item) { return item.equals(left); });
    }
    return found == (sign == "in");
  }
  const auto ordered = [&](const auto& a, const auto& b) {
    return sign == "<" ? a < b : sign == "<=" ? a <= b : sign == ">" ? a > b : a >= b;
  };
  if (left.whole() && right.whole()) return ordered(*left.whole(), *right.whole());
  if (left.number() && right.number()) return ordered(*left.number(), *right.number());
  if (left.text() && right.text()) return ordered(*left.text(), *right.text());
  unfit(sign, left, right);
}

List items_of(const Value& value) {
  if (value.list()) return *value.list();
  List items;
  if (value.dict() && !value.dict()->is_namespace) {
    for (const auto& item : value.dict()->items) items.emplace_back(item.first);
  } else if (value.text()) {
    for (size_t at = 0; at < value.text()->size();) {
      const size_t begin = at;
      next_character(*value.text(), at);
      items.emplace_back(value.text()->substr(begin, at - begin));
    }
  } else if (!value.is_undefined()) {
    throw Problem(fmt::format("{} has no items", value.kind()));
  }
  return items;
}

Value attribute_of(const Value& value, std::string_view name) {
  if (value.is_undefined()) undefined(value);
  const Value* found = value.dict() ? value.dict()->find(name) : nullptr;
  return found ? *found : Value(Value::Undefined{std::string(name)});
}

Value item_of(const Value& value, const Value& index) {
  if (value.is_undefined()) undefined(value);
  if (index.text()) return attribute_of(value, *index.text());
  if (index.whole() && (value.list() || value.text())) {
    const List items = value.list() ? List() : items_of(value);
    const List& all = value.list() ? *value.list() : items;
    const auto count = static_cast<int64_t>(all.size());
    const int64_t at = *index.whole() < 0 ? *index.whole() + count : *index.whole();
    if (at >= 0 && at < count) return all[static_cast<size_t>(at)];
  }
  return Value::Undefined{index.is_undefined() ? index.as<Value::Undefined>()->name : index.repr()};
}

Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.is_undefined()) undefined(value);
  if (!value.list() && !value.text()) throw Problem(fmt::format("a slice of {}", value.kind()));
  const List items = items_of(value);
  const auto count = static_cast<int64_t>(items.size());
  const int64_t stride = bound(step).value_or(1);
  if (stride == 0) throw Problem("a slice with the step 0");
  const auto clamped = [&](std::optional<int64_t> at, int64_t absent) {
    const int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? count : count - 1;
    if (!at) return absent;
    return std::clamp(*at < 0 ? *at + count : *at, low, high);
  };
  const int64_t from = clamped(bound(start), stride > 0 ? 0 : count - 1);
  const int64_t to = clamped(bound(stop), stride > 0 ? count : -1);
  List taken;
  for (int64_t i = from; stride > 0 ? i < to : i > to; i += std::clamp(stride, -count - 1, count + 1)) {
    taken.push_back(items[static_cast<size_t>(i)]);
  }
  if (value.list()) return taken;
  return joined(taken, "");
}

}  // namespace heed::formats::jinja
