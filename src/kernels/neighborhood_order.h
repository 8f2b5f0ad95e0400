// The tokens of a grid by tiles: queries tile by tile, keys by strips, so that the box of keys around a tile is a few
// runs.
#pragma once

#include "kernels/neighborhood_tiles.h"
#include "kernels/tile_order.h"

namespace heed::kernels {

/// Query slots: groups of a dilation, then blocks, tiles of a block, cells of a tile. Key slots: groups, then strips of
/// a few cells along the last axis; in a strip one plane after the other, in a plane row after row, and at last the
/// keys that are no cells. Places that hold no cell stand for no row.
class NeighborhoodOrder final : public TileOrder {
 public:
  /// `hidden`: [batch, tokens + extra_keys], or null.
  NeighborhoodOrder(const Neighborhood& around, int64_t extra_keys, int64_t most_rows, int64_t batch,
                    const uint8_t* hidden);

  TileCover cover(int64_t batch, int64_t i0, int64_t rows, int64_t j0, int64_t j1, int64_t width,
                  uint32_t* bits) const override;

  const TileShape& shape() const { return shape_; }
  /// Pairs in the boxes of keys that `lanes` neighbouring queries of a tile see.
  int64_t tile_pairs(int64_t lanes) const;

 private:
  using Cell = std::array<int64_t, 3>;

  /// What all or some of a box of queries see, an axis.
  using Box = std::array<AxisWindow, 3>;
  struct Place {
    Cell group, origin;
    Box box;  ///< what the tile sees
  };
  /// Keys that lie in one strip and plane: coordinates of the line, and of its first slot.
  struct Line {
    Cell group;
    int64_t plane, column, first;
  };

  int64_t length(int a, const Cell& group) const { return static_cast<int64_t>(windows_[a][group[a]].size()); }
  const AxisWindow& window(int a, const Cell& group, int64_t c) const { return windows_[a][group[a]][c]; }
  /// Appends the tokens at coordinates `first` of a group and the `count` - 1 after it along the last axis; -1: none.
  void add_rows(const Cell& group, const Cell& first, int64_t count, std::vector<int32_t>& rows) const;
  /// What queries `range` of the tile at `place` see; empty where it holds no cell.
  Box seen_by(const Place& place, const TileRange& range) const;
  /// Slots [begin, end) of a line that a box holds.
  Run in_line(const Line& line, const Cell& group, const Box& box) const;
  void lay_out_queries();
  void lay_out_block(const Cell& group, const Cell& block);
  void lay_out_keys();
  void hide(int64_t batch, const uint8_t* hidden);
  void list_runs(const Place& first);
  uint64_t shown(int64_t batch, int64_t j) const;
  /// Who of queries [first, first + rows) of a tile sees keys [j, end), at most 64.
  void words(const Place& place, int64_t first, int64_t rows, int64_t j, int64_t end, uint64_t* words) const;

  TileAxes axes_;
  TileShape shape_;
  int64_t tokens_, extra_keys_, strips_, line_slots_, grid_slots_ = 0;
  std::array<std::vector<std::vector<AxisWindow>>, 3> windows_;  ///< [axis][group][coordinate]
  std::vector<Place> places_;                                    ///< of tiles
  std::vector<Line> lines_;
  std::array<Cell, TileShape::kQueries> cells_;  ///< of a tile's queries
  TileRange whole_;                              ///< those of the whole tile
  std::vector<uint64_t> shown_;                  ///< a bit a key slot, per batch item; empty: all
  int64_t shown_words_ = 0;
};

}  // namespace heed::kernels
