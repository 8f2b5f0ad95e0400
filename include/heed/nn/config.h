// Reading a JSON configuration strictly: typed values, ranges, and no key left unread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/error.h"
#include "heed/names.h"

namespace heed {

/// Reads keys of one JSON object and remembers which were asked for; `finish` refuses the others.
class ConfigReader {
 public:
  /// `owner` names the mechanism in messages. Throws heed::Error when `config` is no object.
  ConfigReader(std::string owner, const nlohmann::json& config) : owner_(std::move(owner)), config_(config) {
    require(config.is_object() || config.is_null(), "{}: configuration {} is not an object", owner_, config.dump());
  }

  /// The value of `key`, or `fallback`. A value of another type is an error that names both.
  template <class T>
  T get(const std::string& key, const T& fallback) {
    known_.push_back(key);
    if (!config_.is_object()) return fallback;
    const auto found = config_.find(key);
    if (found == config_.end() || found->is_null()) return fallback;
    try {
      if constexpr (std::is_same_v<T, bool>) require(found->is_boolean(), "");
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) require(found->is_number_integer(), "");
      return found->get<T>();
    } catch (const std::exception&) {
      fail("{}: {} = {}: {} is accepted", owner_, key, found->dump(), type_name<T>());
    }
  }

  /// An integer in [low, high].
  int64_t integer(const std::string& key, int64_t fallback, int64_t low, int64_t high = int64_t{1} << 40) {
    const auto value = get<int64_t>(key, fallback);
    require(value >= low && value <= high, "{}: {} = {}: {} to {} is accepted", owner_, key, value, low, high);
    return value;
  }

  /// One of `choices`.
  std::string choice(const std::string& key, const std::string& fallback, const std::vector<std::string>& choices) {
    const auto value = get<std::string>(key, fallback);
    for (const auto& choice : choices)
      if (choice == value) return value;
    fail("{}: {} = {}: {}", owner_, key, value, suggest(value, choices));
  }

  nlohmann::json object(const std::string& key) {
    known_.push_back(key);
    return config_.is_object() && config_.contains(key) ? config_.at(key) : nlohmann::json::object();
  }

  /// Throws for a key nobody asked for, naming the nearest that were.
  void finish() const {
    if (!config_.is_object()) return;
    for (const auto& [key, value] : config_.items())
      require(std::find(known_.begin(), known_.end(), key) != known_.end(), "{}: unknown key {}: {}", owner_, key,
              suggest(key, known_));
  }

  const std::string& owner() const { return owner_; }

 private:
  template <class T>
  static const char* type_name() {
    if constexpr (std::is_same_v<T, bool>)
      return "true or false";
    else if constexpr (std::is_integral_v<T>)
      return "an integer";
    else if constexpr (std::is_floating_point_v<T>)
      return "a number";
    else if constexpr (std::is_same_v<T, std::string>)
      return "a string";
    else
      return "a list";
  }

  std::string owner_;
  nlohmann::json config_;
  std::vector<std::string> known_;
};

}  // namespace heed
