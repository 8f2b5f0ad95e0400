// Any bytes are a picture of as many pixels as it says, or one heed::Error; nothing else may happen.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "edits.h"
#include "heed/error.h"
#include "heed/formats/picture.h"

namespace {

std::string bytes_of(const char* name) {
  std::ifstream file(std::string(HEED_TEST_SOURCE_DIR) + "/formats/fixtures/" + name, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.empty()) std::abort();
  return bytes;
}

const std::vector<std::string>& good_files() {
  static const std::vector<std::string> files = [] {
    heed::formats::Picture picture{5, 7, {}};
    for (int i = 0; i < 105; ++i) picture.rgb.push_back(static_cast<uint8_t>(37 * i));
    return std::vector{bytes_of("halves.jpg"), bytes_of("grey.jpg"), bytes_of("transparent16.png"), png_of(picture)};
  }();
  return files;
}

uint32_t checksum(std::string_view bytes) {
  uint32_t sum = ~uint32_t{0};
  for (const char c : bytes) {
    sum ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0u);
  }
  return ~sum;
}

// A PNG whose chunks do not keep their checksums is given up before it is read.
void mend_checksums(std::string& png) {
  const auto number = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(png[at + i]);
    return value;
  };
  for (size_t at = 8; at + 12 <= png.size();) {
    const size_t length = number(at);
    if (length > png.size() - at - 12) return;
    const uint32_t sum = checksum(std::string_view(png).substr(at + 4, length + 4));
    for (size_t i = 0; i < 4; ++i) png[at + 8 + length + i] = static_cast<char>(sum >> (24 - 8 * i) & 0xff);
    at += 12 + length;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (const size_t which = data[0] % 8; which < good_files().size())
    bytes = heed::fuzz::edited(good_files()[which], data + 1, size - 1);
  if (data[0] % 16 < 8 && bytes.starts_with("\x89PNG")) mend_checksums(bytes);
  try {
    const auto picture = heed::formats::parse_picture(std::as_bytes(std::span(bytes)), "fuzz");
    if (picture.rgb.size() != static_cast<size_t>(3 * picture.height * picture.width)) std::abort();
  } catch (const heed::Error& error) {
    if (!heed::fuzz::is_one_line(error.what())) std::abort();
  }
  return 0;
}
