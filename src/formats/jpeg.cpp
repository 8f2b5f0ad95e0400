#include "formats/jpeg.h"

// Needs stdio's types, which it does not include itself.
#include <cstdio>

#include <jerror.h>
#include <jpeglib.h>

#include <csetjmp>
#include <string>

#include "heed/error.h"

namespace heed::formats {
namespace {

struct Failure {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

void leave(j_common_ptr info) {
  auto* failure = reinterpret_cast<Failure*>(info->err);
  failure->manager.format_message(info, failure->message);
  std::longjmp(failure->back, 1);
}

/// Of what libjpeg only warns of, a file that ends early is none that was read.
void warn(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) leave(info);
}

enum class Result { read, broken, too_large };

/// libjpeg leaves by longjmp: no object with a destructor may live in here.
Result read(std::span<const std::byte> bytes, Picture& picture, Failure& failure) {
  jpeg_decompress_struct info;
  info.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = leave;
  failure.manager.emit_message = warn;
  if (setjmp(failure.back) != 0) {
    jpeg_destroy_decompress(&info);
    return Result::broken;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&info, TRUE);
  picture.height = info.image_height, picture.width = info.image_width;
  if (picture.height * picture.width > kMostPixels) {
    jpeg_destroy_decompress(&info);
    return Result::too_large;
  }
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  picture.rgb.resize(static_cast<size_t>(3 * picture.height * picture.width));
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = picture.at(info.output_scanline, 0);
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return Result::read;
}

}  // namespace

Picture parse_jpeg(std::span<const std::byte> bytes, std::string_view name) {
  Picture picture;
  Failure failure;
  const auto result = read(bytes, picture, failure);
  require(result != Result::broken, "{}: no JPEG that can be read: {}", name, failure.message);
  require(result != Result::too_large, "{}: {} x {} pixels; at most {} are accepted", name, picture.width,
          picture.height, kMostPixels);
  return picture;
}

}  // namespace heed::formats
