// GPT-2's alphabet: every byte as one visible character, so that a vocabulary of strings can hold any bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace heed::formats {

/// The split pattern that ByteLevel uses when it is asked to split.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Bytes to characters of the alphabet, as UTF-8.
std::string to_byte_alphabet(std::string_view bytes);
/// The bytes that the characters of a token stand for; absent when one is outside the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view token);

}  // namespace heed::formats
