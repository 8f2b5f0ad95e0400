// Safetensors files made by hand, and the errors that they raise.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "heed/error.h"
#include "support/temporary_directory.h"

namespace heed {

/// A safetensors file: the header's true length, the header as given, `data_bytes` bytes counting up.
inline std::string safetensors_text(std::string_view header, size_t data_bytes) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * i) & 0xff);
  text += header;
  for (size_t i = 0; i < data_bytes; ++i) text += static_cast<char>(i & 0xff);
  return text;
}

/// The message of the heed::Error that `action` must throw; one line without control characters.
template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char c : text)
      EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) << "not one line: " << text;
    return text;
  }
  ADD_FAILURE() << "no heed::Error";
  return "";
}

}  // namespace heed
