#include "heed/formats/picture.h"

#include <cstring>

#include "formats/jpeg.h"
#include "formats/png.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/mapped_file.h"

namespace heed::formats {
namespace {

bool begins(std::span<const std::byte> bytes, std::string_view signature) {
  return bytes.size() >= signature.size() && std::memcmp(bytes.data(), signature.data(), signature.size()) == 0;
}

}  // namespace

Picture parse_picture(std::span<const std::byte> bytes, std::string_view name) {
  if (begins(bytes, "\x89PNG\r\n\x1a\n")) return parse_png(bytes, name);
  if (begins(bytes, "\xff\xd8\xff")) return parse_jpeg(bytes, name);
  fail("{}: no picture that is read: PNG and JPEG are accepted", name);
}

Picture read_picture(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_picture(file.bytes(), path.string());
}

void write_png(const std::filesystem::path& path, const Picture& picture) { write_file(path, png_of(picture)); }

}  // namespace heed::formats
