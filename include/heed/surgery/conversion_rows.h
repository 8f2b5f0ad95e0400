// The conversions there are, for `heed list`: each is a command of `heed surgery`.
#pragma once

#include <span>

#include "heed/registry.h"

namespace heed::surgery {

std::span<const RegistryRow> conversion_rows();

}  // namespace heed::surgery
