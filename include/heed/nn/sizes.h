// Numbers an axis of a grid, as configurations and command lines give them.
#pragma once

#include <string>
#include <vector>

#include "heed/nn/config.h"

namespace heed::nn {

/// "16x24" as {16, 24}; "7" as {7}. `name` stands in the message of a heed::Error.
std::vector<int64_t> parse_sizes(const std::string& text, const std::string& name);

/// The value of `key`: a number, a list of numbers, or text like "16x24".
std::vector<int64_t> read_sizes(ConfigReader& reader, const std::string& key, const std::vector<int64_t>& fallback);

/// The value of `key`: true or false for all axes, or a list of them.
std::vector<bool> read_flags(ConfigReader& reader, const std::string& key, const std::vector<bool>& fallback);

}  // namespace heed::nn
