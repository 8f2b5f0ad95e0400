// What a call costs on the machine at hand.
#pragma once

#include <cstdint>
#include <functional>

namespace heed::results {

struct Cost {
  double seconds = 0;  ///< median
  int64_t bytes = 0;   ///< held at once beside the inputs
};

/// Of three calls or more, for a third of a second; no gradient.
Cost cost_of(const std::function<void()>& call);

}  // namespace heed::results
