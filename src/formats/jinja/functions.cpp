#include <algorithm>
#include <array>
#include <ctime>

#include "formats/jinja/builtins.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

/// As in Jinja's sandbox.
constexpr int64_t kMaxRange = 100'000;

Value range(const Arguments& arguments) {
  arguments.accept({"start", "stop", "step"});
  const size_t count = arguments.values.size();
  if (count == 0 || !arguments.named.empty()) throw Problem("range() takes one to three numbers");
  const int64_t start = count == 1 ? 0 : arguments.whole_or(0, "start", 0);
  const int64_t stop = arguments.whole_or(count == 1 ? 0 : 1, "stop", 0), step = arguments.whole_or(2, "step", 1);
  if (step == 0) throw Problem("range() with the step 0");
  List numbers;
  // Differences of 64-bit numbers can need 65 bits.
  for (auto i = static_cast<__int128>(start); step > 0 ? i < stop : i > stop; i += step) {
    if (static_cast<int64_t>(numbers.size()) == kMaxRange) {
      throw Problem(fmt::format("range() of more than {} numbers", kMaxRange));
    }
    numbers.emplace_back(static_cast<int64_t>(i));
  }
  return numbers;
}

Dict named(const Arguments& arguments) {
  Dict made;
  if (arguments.values.size() > 1) throw Problem("more than one value without a name");
  for (const auto& value : arguments.values) {
    if (!value.dict()) throw Problem(fmt::format("{} where a dict is expected", value.kind()));
    made.items = value.dict()->items;
  }
  for (const auto& [name, value] : arguments.named) made.set(name, value);
  return made;
}

Value now(const Arguments& arguments) {
  arguments.accept({"format"});
  const std::string format = arguments.text(0, "format");
  if (format.size() > 256) throw Problem("a time format of more than 256 bytes");
  const std::time_t seconds = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  std::array<char, 1024> text{};
  const size_t length = std::strftime(text.data(), text.size(), format.c_str(), &local);
  return std::string(text.data(), length);
}

}  // namespace

const Value* Arguments::find(size_t place, std::string_view name) const {
  if (place < values.size()) return &values[place];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Arguments::accept(std::initializer_list<std::string_view> names) const {
  if (values.size() > names.size()) {
    throw Problem(fmt::format("{} arguments, accepted: at most {}", values.size(), names.size()));
  }
  for (const auto& [key, value] : named) {
    if (std::find(names.begin(), names.end(), key) == names.end()) {
      throw Problem(fmt::format("the argument {}, which is not known", quote(key)));
    }
  }
}

std::string Arguments::text(size_t place, std::string_view name) const {
  const Value* value = find(place, name);
  if (!value || !value->text()) {
    throw Problem(fmt::format("{} is {}, accepted: a string", name, value ? value->kind() : "missing"));
  }
  return *value->text();
}

std::string Arguments::text_or(size_t place, std::string_view name, std::string_view absent) const {
  const Value* value = find(place, name);
  return value && !value->is_none() ? text(place, name) : std::string(absent);
}

int64_t Arguments::whole_or(size_t place, std::string_view name, int64_t absent) const {
  const Value* value = find(place, name);
  if (!value || value->is_none()) return absent;
  if (!value->whole()) throw Problem(fmt::format("{} is {}, accepted: an int", name, value->kind()));
  return *value->whole();
}

bool Arguments::flag_or(size_t place, std::string_view name, bool absent) const {
  const Value* value = find(place, name);
  return value ? value->truthy() : absent;
}

bool is_function(std::string_view name) {
  constexpr std::array<std::string_view, 5> kNames = {"raise_exception", "range", "namespace", "dict", "strftime_now"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Value call_function(std::string_view name, const Arguments& arguments) {
  if (name == "range") return range(arguments);
  if (name == "dict") return named(arguments);
  if (name == "strftime_now") return now(arguments);
  if (name == "namespace") {
    Dict made = named(arguments);
    made.is_namespace = true;
    return made;
  }
  arguments.accept({"message"});
  std::string message = arguments.find(0, "message") ? arguments.find(0, "message")->str() : "";
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  throw Problem("the template refuses the conversation: " + message);
}

}  // namespace heed::formats::jinja
