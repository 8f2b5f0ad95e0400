// Pictures from files: PNG and JPEG in, PNG out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::formats {

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;  ///< [height, width, 3], row by row

  const uint8_t* at(int64_t y, int64_t x) const { return rgb.data() + 3 * (y * width + x); }
  uint8_t* at(int64_t y, int64_t x) { return rgb.data() + 3 * (y * width + x); }
};

/// More pixels than this are refused: 256 mebipixels.
inline constexpr int64_t kMostPixels = int64_t{1} << 28;

/// A PNG or JPEG by what its bytes begin with. Greys become colours of equal parts, what is transparent lies on white,
/// 16 bits become 8. Throws heed::Error, which names `name`, for other files, broken ones and too many pixels.
Picture parse_picture(std::span<const std::byte> bytes, std::string_view name);
Picture read_picture(const std::filesystem::path& path);

/// The bytes of a PNG.
std::string png_of(const Picture& picture);
/// Replaces the file at `path`, whole or not at all.
void write_png(const std::filesystem::path& path, const Picture& picture);

}  // namespace heed::formats
