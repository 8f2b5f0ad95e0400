// Rows of the models of images; those that learn tasks are backbones (heed/models/vision_backbone.h) of the same name.
#pragma once

#include <vector>

#include "heed/registry.h"

namespace heed {

std::vector<RegistryRow> vision_model_rows();

}  // namespace heed
