// Budgets of PyramidKV.
#pragma once

#include <cstdint>

namespace heed::cache {

/// Tokens that layer `layer` of `layers` keeps before the window of `window` queries, of a prompt of `prompt` tokens:
/// falling linearly from the first layer to the last, `capacity` - `window` on average up to the rounding of the step.
/// `beta` at least 1; 1 gives every layer the same.
int64_t pyramid_budget(int64_t capacity, int64_t window, int64_t beta, int64_t layer, int64_t layers, int64_t prompt);

}  // namespace heed::cache
