// What a tiled kernel can gain from a neighbourhood, by counting the tiles it must visit (Generalized Neighborhood
// Attention, arXiv 2504.16922).
#pragma once

#include <array>

#include "heed/kernels/neighborhood.h"

namespace heed::bench {

/// Tiles of queries and keys, an axis.
struct SimulatedTiles {
  std::array<int64_t, 3> queries{1, 1, 1}, keys{1, 1, 1};
  bool dynamic = false;  ///< key tiles begin where a query tile's windows do; else on a fixed grid
};

struct Simulation {
  std::array<int64_t, 3> visited{1, 1, 1};  ///< key tiles that the tile of most work visits, an axis
  double speed_up = 1;                      ///< over dense attention: key tiles there are over those visited
  double over_stride_one = 1;               ///< over the same windows with stride 1
  double bound = 1;                         ///< all pairs of tokens over those that are visible
  /// Every visited tile is full: no work is wasted.
  bool perfect = false;
};

/// Throws heed::Error for axes or tiles that do not fit.
Simulation simulate(const kernels::Neighborhood& around, const SimulatedTiles& tiles);

/// Speed-up of a whole model of which attention takes the share `attention_share` of the time.
double end_to_end(double attention_share, double speed_up);

}  // namespace heed::bench
