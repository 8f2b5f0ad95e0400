// Edits of a good file, so that what damages it reaches every step of a reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace heed::fuzz {

/// Every four bytes are an edit: a place (two bytes), how many bytes go, and the byte that comes.
inline std::string edited(std::string_view good, const uint8_t* data, size_t size) {
  std::string text(good);
  for (size_t i = 0; i + 3 < size && !text.empty(); i += 4)
    text.replace((data[i] + size_t{256} * data[i + 1]) % text.size(), data[i + 2] % 4, 1,
                 static_cast<char>(data[i + 3]));
  return text;
}

/// The error of a reader is one line.
inline bool is_one_line(std::string_view message) {
  return !message.empty() && message.find('\n') == std::string_view::npos;
}

}  // namespace heed::fuzz
