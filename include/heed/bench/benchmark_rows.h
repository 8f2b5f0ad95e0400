// The measuring protocols there are, for `heed list`.
#pragma once

#include <span>

#include "heed/registry.h"

namespace heed::bench {

std::span<const RegistryRow> benchmark_rows();

}  // namespace heed::bench
