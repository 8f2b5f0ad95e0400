#include "heed/formats/generation_config.h"

#include <algorithm>

#include "formats/json_node.h"

namespace heed::formats {

std::vector<int64_t> parse_ending_tokens(const nlohmann::json& json, std::string_view source) {
  const JsonNode config(json, std::string(source));
  const auto given = config.find("eos_token_id");
  if (!given) return {};
  std::vector<int64_t> ids;
  for (const auto& node : given->json().is_array() ? given->items() : std::vector{*given}) {
    if (!node.json().is_number_integer()) node.refuse("a token id or a list of them");
    const auto id = node.whole(INT32_MIN, INT32_MAX);
    if (id >= 0 && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);  // some files say -1 for none
  }
  return ids;
}

}  // namespace heed::formats
