// The rows that mixer files define, gathered by registry.cpp.
#pragma once

#include "heed/registry.h"

namespace heed::rows {

/// The parameters every attention mixer has.
std::vector<Parameter> attention_parameters(std::vector<Parameter> own = {});

RegistryRow dense();

}  // namespace heed::rows
