// Models of the literature whose shape is their own: no stack of blocks with mixers named by a configuration.
#pragma once

#include <span>

#include "heed/registry.h"

namespace heed {

/// One a model; `make` is empty.
std::span<const RegistryRow> model_rows();

}  // namespace heed
