#include "formats/json_node.h"

#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {

using Json = nlohmann::json;

void JsonNode::refuse(std::string_view accepted) const {
  fail("{}: {} is {}, accepted: {}", source_, place_.empty() ? "the text" : place_, quote_value(*json_), accepted);
}

std::optional<JsonNode> JsonNode::find(const char* key) const {
  if (!json_->is_object()) refuse("an object");
  const auto found = json_->find(key);
  if (found == json_->end() || found->is_null()) return std::nullopt;
  return JsonNode(*found, source_, place_.empty() ? key : place_ + "." + key);
}

JsonNode JsonNode::at(const char* key) const {
  auto found = find(key);
  require(found.has_value(), "{}: {}{}{} is missing", source_, place_, place_.empty() ? "" : ".", key);
  return *found;
}

std::vector<JsonNode> JsonNode::items() const {
  if (!json_->is_array()) refuse("a list");
  std::vector<JsonNode> nodes;
  nodes.reserve(json_->size());
  for (size_t i = 0; i < json_->size(); ++i) nodes.emplace_back((*json_)[i], source_, fmt::format("{}[{}]", place_, i));
  return nodes;
}

std::string JsonNode::text() const {
  if (!json_->is_string()) refuse("a string");
  return json_->get<std::string>();
}

bool JsonNode::flag() const {
  if (!json_->is_boolean()) refuse("true or false");
  return json_->get<bool>();
}

int64_t JsonNode::whole(int64_t lowest, int64_t highest) const {
  const bool is_int64 =
      json_->is_number_integer() && !(json_->is_number_unsigned() && json_->get<uint64_t>() > INT64_MAX);
  const int64_t value = is_int64 ? json_->get<int64_t>() : 0;
  if (!is_int64 || value < lowest || value > highest) refuse(fmt::format("a whole number, {} to {}", lowest, highest));
  return value;
}

std::string JsonNode::text_or(const char* key, std::string_view absent) const {
  const auto node = find(key);
  return node ? node->text() : std::string(absent);
}

bool JsonNode::flag_or(const char* key, bool absent) const {
  const auto node = find(key);
  return node ? node->flag() : absent;
}

}  // namespace heed::formats
