// Attention of every cell of a grid to a window around it, in one, two or three dimensions: window, stride, dilation
// and causality an axis (Generalized Neighborhood Attention, arXiv 2504.16922).
#pragma once

#include <array>
#include <cstdint>

#include "heed/kernels/flash.h"

namespace heed::kernels {

/// One axis of a neighbourhood. With dilation e, cell i belongs to group i mod e and has the coordinate c = i / e in
/// it; window and stride count coordinates, and a cell sees its own group alone.
struct NeighborhoodAxis {
  int64_t length = 1;    ///< cells L
  int64_t window = 1;    ///< visible coordinates w, 1 to L / e
  int64_t stride = 1;    ///< s, 1 to w: this many neighbours share the window of the one in their middle
  int64_t dilation = 1;  ///< e, 1 to L
  bool causal = false;   ///< no later cell is visible

  /// Cells of the group of cell i.
  int64_t group_length(int64_t i) const { return (length - i % dilation + dilation - 1) / dilation; }
};

/// Coordinates [begin, end) of a group.
struct AxisWindow {
  int64_t begin, end;
  bool holds(int64_t c) const { return begin <= c && c < end; }
  int64_t size() const { return end - begin; }
};

/// What coordinate c of a group of `group_length` cells sees. Windows at a border are moved inwards and keep their
/// size; causal ones end at c. Both ends grow with c.
AxisWindow window_at(const NeighborhoodAxis& axis, int64_t group_length, int64_t c);

/// A grid of tokens, the last axis fastest. Axes from `rank` on are single cells.
struct Neighborhood {
  int rank = 1;
  std::array<NeighborhoodAxis, 3> axes{};

  int64_t tokens() const { return axes[0].length * axes[1].length * axes[2].length; }
  /// Keys of the largest window: the entries of a row of explicit weights.
  int64_t window_keys() const { return axes[0].window * axes[1].window * axes[2].window; }
};

/// Throws heed::Error for a window longer than its axis, a stride longer than its window and the like.
void check(const Neighborhood& around);
/// Whether token i sees token j. Slow and obvious.
bool sees(const Neighborhood& around, int64_t i, int64_t j);
/// Pairs of tokens of which the first sees the second.
int64_t visible_pairs(const Neighborhood& around);

/// An attention call over a grid. N is the grid's tokens; keys beyond them (M > N) are further tokens, such as text,
/// that every query sees. Of `attention`, q, k, v, out, lse, scale, head maps, soft cap and sink logit may be used.
struct NeighborhoodParams {
  FlashParams attention;
  Neighborhood around;
  const uint8_t* hidden_keys = nullptr;  ///< [B, M], not 0: padding, seen by nobody; null: none
};

/// Throws heed::Error naming what does not fit. Called by every entry below.
void check(const NeighborhoodParams& params);

void neighborhood_forward(const NeighborhoodParams& params);
/// As flash_backward; of the gradients d_q, d_k, d_v and d_sink may be asked.
void neighborhood_backward(const NeighborhoodParams& params, const FlashGrads& grads);

/// How the forward cuts a neighbourhood: queries in tiles whose keys are visited together.
struct NeighborhoodTiling {
  std::array<int64_t, 3> tile{1, 1, 1};  ///< queries of a tile, an axis
  std::array<int64_t, 3> part{1, 1, 1};  ///< the part of a tile that is one vector of the instruction set in use
  int64_t strip = 1;                     ///< keys that lie side by side along the last axis
  /// Pairs of one head in the boxes of keys that tiles see, and that their parts see.
  int64_t tile_pairs = 0, part_pairs = 0;
};
NeighborhoodTiling neighborhood_tiling(const Neighborhood& around);

namespace reference {
/// The formula in double: any dtype, O(N * M) time.
void neighborhood_forward(const NeighborhoodParams& params);
void neighborhood_backward(const NeighborhoodParams& params, const FlashGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
