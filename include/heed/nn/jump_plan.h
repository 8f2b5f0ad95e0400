// Where a query of superlinear attention looks (arXiv 2601.18401): anchors that lie ever farther apart, a span around
// each, a window at its own place.
#pragma once

#include <cstdint>
#include <vector>

namespace heed::nn {

/// Anchor i = skip + 1, skip + 2, ... of token t is the key t - floor(i^(1 / power)) + 1. The window holds the keys
/// behind the first of them. An anchor's span reaches back ceil(back (t + 1)^span_power) keys and ahead likewise, as
/// far as the window's begin. Powers of 1/2 are exact in integers.
struct JumpPlan {
  double power = 0.5, span_power = 0.5;
  int64_t skip = 1;
  int64_t back = 2, ahead = 0;

  /// Keys of the window, the own one included; 0: none.
  int64_t window() const;
  /// Distances t - anchor below `tokens`, rising.
  std::vector<int64_t> distances(int64_t tokens) const;
  /// Keys before and after an anchor that the spans of token t reach.
  int64_t reach_back(int64_t t) const;
  int64_t reach_ahead(int64_t t) const;
};

}  // namespace heed::nn
