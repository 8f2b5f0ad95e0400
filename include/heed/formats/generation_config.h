// generation_config.json: what a checkpoint's makers say of generating with it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace heed::formats {

/// The tokens that end a text: one id or a list, or none. Throws heed::Error, which begins with `source`, for anything
/// else.
std::vector<int64_t> parse_ending_tokens(const nlohmann::json& json, std::string_view source);

}  // namespace heed::formats
