#include "formats/png.h"

#include <png.h>

#include "heed/error.h"

namespace heed::formats {
namespace {

/// Frees what libpng holds, whatever happens.
struct Reader {
  png_image image{};
  Reader() { image.version = PNG_IMAGE_VERSION; }
  ~Reader() { png_image_free(&image); }
};

}  // namespace

Picture parse_png(std::span<const std::byte> bytes, std::string_view name) {
  Reader reader;
  auto& image = reader.image;
  require(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) != 0, "{}: no PNG that can be read: {}",
          name, image.message);
  const auto pixels = int64_t{image.height} * int64_t{image.width};
  require(pixels > 0 && pixels <= kMostPixels, "{}: {} x {} pixels; at most {} are accepted", name, image.width,
          image.height, kMostPixels);
  image.format = PNG_FORMAT_RGB;
  Picture picture{image.height, image.width, std::vector<uint8_t>(static_cast<size_t>(3 * pixels))};
  const png_color white{255, 255, 255};
  require(png_image_finish_read(&image, &white, picture.rgb.data(), 0, nullptr) != 0, "{}: no PNG that can be read: {}",
          name, image.message);
  return picture;
}

std::string png_of(const Picture& picture) {
  require(picture.height > 0 && picture.width > 0 &&
              picture.rgb.size() == static_cast<size_t>(3 * picture.height * picture.width),
          "a picture of {} x {} pixels with {} bytes", picture.width, picture.height, picture.rgb.size());
  Reader writer;
  auto& image = writer.image;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  require(png_image_write_to_memory(&image, bytes.data(), &size, 0, picture.rgb.data(), 0, nullptr) != 0,
          "a picture of {} x {} pixels can't be written: {}", picture.width, picture.height, image.message);
  bytes.resize(size);
  return bytes;
}

}  // namespace heed::formats
