// Which keys of a tile a mask leaves at most: what the tile engine cuts off the edges of a band.
#pragma once

#include "heed/kernels/mask.h"

namespace heed::kernels {

/// Keys [begin, end).
struct KeyRange {
  int64_t begin, end;
};

/// The part of a tile, clipped to the scope, outside of which no key is visible to any of its queries. O(terms); larger
/// than it need be where terms other than intervals decide.
KeyRange mask_reach(const Mask& mask, const MaskScope& scope, int64_t i0, int64_t i1, int64_t j0, int64_t j1);

}  // namespace heed::kernels
