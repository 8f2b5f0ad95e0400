// A value of a JSON file from a stranger, which knows its place in the file for messages.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace heed::formats {

/// Refers to a document that outlives it. A member that is null counts as absent. What does not fit throws heed::Error
/// "<source>: <place> is <value>, accepted: ...".
class JsonNode {
 public:
  JsonNode(const nlohmann::json& json, std::string_view source, std::string place = "")
      : json_(&json), source_(source), place_(std::move(place)) {}

  const nlohmann::json& json() const { return *json_; }
  const std::string& source() const { return source_; }
  const std::string& place() const { return place_; }

  /// A member of an object.
  std::optional<JsonNode> find(const char* key) const;
  JsonNode at(const char* key) const;
  /// The elements of an array.
  std::vector<JsonNode> items() const;

  std::string text() const;
  bool flag() const;
  int64_t whole(int64_t lowest, int64_t highest) const;

  std::string text_or(const char* key, std::string_view absent) const;
  bool flag_or(const char* key, bool absent) const;

  [[noreturn]] void refuse(std::string_view accepted) const;

 private:
  const nlohmann::json* json_;
  std::string source_, place_;
};

}  // namespace heed::formats
