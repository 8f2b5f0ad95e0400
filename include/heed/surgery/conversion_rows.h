// The conversions there are, for `heed list`: commands of `heed surgery`, or functions of heed/surgery/.
#pragma once

#include <span>

#include "heed/registry.h"

namespace heed::surgery {

std::span<const RegistryRow> conversion_rows();

}  // namespace heed::surgery
