// The probes there are, for `heed list`: each is a command of `heed probe`.
#pragma once

#include <span>

#include "heed/registry.h"

namespace heed::probe {

std::span<const RegistryRow> probe_rows();

}  // namespace heed::probe
