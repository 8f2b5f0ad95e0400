// Layers that a mixer is told by their numbers.
#pragma once

#include <algorithm>
#include <vector>

#include "heed/mixers/token_mixer.h"

namespace heed {

/// Whether `layer` is among `numbers`; below 0 these count from the last.
inline bool among(const std::vector<int64_t>& numbers, const LayerContext& layer) {
  return std::any_of(numbers.begin(), numbers.end(),
                     [&](int64_t n) { return (n < 0 ? n + layer.count : n) == layer.index; });
}

}  // namespace heed
