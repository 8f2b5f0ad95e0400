// JSON from strangers: one strict reader for every floor.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace heed::formats {

/// Deepest nesting of objects and arrays that is read.
inline constexpr int kMaxJsonDepth = 64;

/// Parses RFC 8259 JSON. Refuses, with a heed::Error that begins with `source`: text that is no JSON (with the byte
/// where), nesting deeper than kMaxJsonDepth, and a name that stands twice in one object, where parsers differ in what
/// they take.
nlohmann::json parse_json(std::string_view text, std::string_view source);

/// Reads and parses a file of at most `max_bytes`.
nlohmann::json read_json_file(const std::filesystem::path& path, size_t max_bytes = size_t{64} << 20);

/// Text from a file as it may stand in a one-line message: quoted, control characters escaped, cut after 80 bytes.
std::string quote(std::string_view text);

/// A value of such a file in the same way: text without its own quotes, unless it would be taken for something else.
std::string quote_value(const nlohmann::json& value);

}  // namespace heed::formats
