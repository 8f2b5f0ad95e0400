// How a neighbourhood is cut into tiles: a pure function of its axes.
#pragma once

#include "heed/kernels/neighborhood.h"

namespace heed::kernels {

/// Axes as the tiles have them: the last two are those in which tiles spread first, missing ones are single cells in
/// front (or, of one axis, behind).
struct TileAxes {
  std::array<NeighborhoodAxis, 3> axes;

  explicit TileAxes(const Neighborhood& around);
  /// Cells of the largest group of an axis.
  int64_t length(int a) const { return axes[a].group_length(0); }
};

struct TileShape {
  /// Queries of a tile: the widest panel of the engine, so that a panel never holds queries of two tiles.
  static constexpr int64_t kQueries = 48;

  std::array<int64_t, 3> tile;   ///< queries of a tile, an axis; kQueries in all
  std::array<int64_t, 3> block;  ///< tiles of a block, an axis: what shares a pass over the keys
  int64_t strip;                 ///< keys side by side along the last axis
  int64_t shift;                 ///< a strip begins at the coordinate -shift
};

/// The shape of the least work, with at most `most_rows` queries a block.
TileShape choose_tiles(const TileAxes& axes, int64_t most_rows);

/// Coordinates [low, high] of the queries [first, first + count) of a tile in row-major order, along each axis.
struct TileRange {
  std::array<int64_t, 3> low, high;
};
TileRange range_in_tile(const std::array<int64_t, 3>& tile, int64_t first, int64_t count);

}  // namespace heed::kernels
