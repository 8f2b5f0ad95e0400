// What a template computes with: Python's values, as far as chat templates meet them.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace heed::formats::jinja {

/// What goes wrong inside a template; whoever knows the place makes a heed::Error of it.
class Problem : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Longest text that a template makes, in bytes.
inline constexpr size_t kMaxText = size_t{64} << 20;
/// Throws Problem when a text of `bytes` would be too long.
void check_text(size_t bytes);

class Value;
using List = std::vector<Value>;

/// In the order of insertion, as in Python; small, so that a look-up walks it.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  bool is_namespace = false;  ///< made by namespace(): {% set ns.x = ... %} may change it

  const Value* find(std::string_view key) const;
  void set(std::string_view key, Value value);
};

/// Lists and dictionaries are shared and, but for namespaces, never changed.
class Value {
 public:
  struct Undefined {
    std::string name;  ///< for messages
  };
  struct None {};
  struct Function {
    std::string name;
  };
  using Data = std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<const List>,
                            std::shared_ptr<Dict>, Function>;

  Value() : data_(None{}) {}
  Value(Undefined value) : data_(std::move(value)) {}
  Value(Function value) : data_(std::move(value)) {}
  Value(bool value) : data_(value) {}
  Value(int value) : data_(int64_t{value}) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(const char* value) : data_(std::string(value)) {}
  Value(std::string value) : data_(std::move(value)) {}
  Value(std::string_view value) : data_(std::string(value)) {}
  Value(List value) : data_(std::make_shared<const List>(std::move(value))) {}
  Value(Dict value) : data_(std::make_shared<Dict>(std::move(value))) {}
  /// A list that prints in round brackets.
  static Value tuple(List value);
  static Value from_json(const nlohmann::ordered_json& json);

  template <class T>
  const T* as() const {
    return std::get_if<T>(&data_);
  }
  const std::string* text() const { return as<std::string>(); }
  const List* list() const;
  Dict* dict() const;
  bool is_undefined() const { return as<Undefined>() != nullptr; }
  bool is_none() const { return as<None>() != nullptr; }
  /// bool, int or float; absent otherwise.
  std::optional<double> number() const;
  /// bool or int.
  std::optional<int64_t> whole() const;

  bool truthy() const;
  /// What Python's == says.
  bool equals(const Value& other) const;
  /// How many lists and dictionaries lie in each other, at most; stops counting at kMaxNesting + 1.
  static constexpr int kMaxNesting = 64;
  int nesting(int level = 0) const;
  bool holds_namespace() const;
  /// "a string", "a list", ... for messages.
  std::string_view kind() const;
  /// Python's str(): what {{ }} prints.
  std::string str() const;
  /// Python's repr().
  std::string repr() const;

 private:
  Data data_;
  bool is_tuple_ = false;
};

struct JsonStyle {
  std::optional<int64_t> indent;
  bool ensure_ascii = false, sort_keys = false;
  std::optional<std::string> item_separator, key_separator;
};
/// Python's json.dumps(). Throws Problem for what JSON has no word for.
std::string to_json(const Value& value, const JsonStyle& style = {});

}  // namespace heed::formats::jinja
