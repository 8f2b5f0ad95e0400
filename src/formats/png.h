// PNG by libpng.
#pragma once

#include "heed/formats/picture.h"

namespace heed::formats {

Picture parse_png(std::span<const std::byte> bytes, std::string_view name);

}  // namespace heed::formats
