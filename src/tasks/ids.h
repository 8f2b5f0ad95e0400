// Names and values that are hidden and asked for.
#pragma once

#include <string>
#include <string_view>

#include "heed/tasks/random.h"

namespace heed::tasks {

/// `count` symbols of `alphabet`.
std::string random_symbols(Random& random, std::string_view alphabet, int64_t count);

inline constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
inline constexpr std::string_view kCapitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
inline constexpr std::string_view kDigits = "0123456789";
inline constexpr std::string_view kHex = "0123456789abcdef";
/// What sequences are made of when more than 26 symbols are wanted.
inline constexpr std::string_view kAlphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

enum class IdKind { word, number, uuid };

/// RULER's ids: an adjective and a noun, 7 digits, a UUID; `tiny`: 4 letters, digits, hexadecimal digits.
std::string random_id(Random& random, IdKind kind, bool tiny);
/// How many ids there are.
double id_count(IdKind kind, bool tiny);

}  // namespace heed::tasks
