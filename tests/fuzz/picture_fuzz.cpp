// Any bytes are a picture of as many pixels as it says, or one heed::Error; nothing else may happen.
#include <cstdlib>

#include "heed/error.h"
#include "heed/formats/picture.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto picture = heed::formats::parse_picture(std::as_bytes(std::span(data, size)), "fuzz");
    if (picture.rgb.size() != static_cast<size_t>(3 * picture.height * picture.width)) std::abort();
  } catch (const heed::Error& error) {
    for (const char* c = error.what(); *c; ++c) {
      if (*c == '\n') std::abort();
    }
  }
  return 0;
}
