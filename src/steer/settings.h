// Settings that interventions share: which heads of which layers they change.
#pragma once

#include <vector>

#include "heed/cache/policy.h"

namespace heed::steer {

/// [layer] of the chosen query heads, ascending.
using QueryHeads = std::vector<std::vector<int64_t>>;

/// The settings "heads" (all, a list of [layer, query head], or a file of numbers by query or KV head of which those
/// above 0 are chosen), "first_layer" and "last_layers" (so many at the end are left alone).
QueryHeads chosen_heads(ConfigReader& reader, const cache::ModelShape& shape, int64_t first_layer, int64_t last_layers);
std::vector<Parameter> head_parameters(int64_t first_layer, int64_t last_layers);

}  // namespace heed::steer
