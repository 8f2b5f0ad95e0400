// JPEG by libjpeg-turbo.
#pragma once

#include "heed/formats/picture.h"

namespace heed::formats {

Picture parse_jpeg(std::span<const std::byte> bytes, std::string_view name);

}  // namespace heed::formats
