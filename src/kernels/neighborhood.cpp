#include "heed/kernels/neighborhood.h"

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/neighborhood_order.h"

namespace heed::kernels {

AxisWindow window_at(const NeighborhoodAxis& axis, int64_t group_length, int64_t c) {
  const int64_t w = axis.window, s = axis.stride, first = c / s * s;
  if (axis.causal) {
    const int64_t leader = std::min(first + s - 1, group_length - 1);
    return {std::max<int64_t>(leader - (w - 1), 0), std::min(c + 1, group_length)};
  }
  const int64_t leader = std::min(first + s / 2, group_length - 1);
  const int64_t begin = std::clamp<int64_t>(leader - w / 2, 0, group_length - w);
  return {begin, begin + w};
}

void check(const Neighborhood& around) {
  require(around.rank >= 1 && around.rank <= 3, "a neighbourhood of {} axes; 1, 2 or 3 are accepted", around.rank);
  for (int a = 0; a < 3; ++a) {
    const NeighborhoodAxis& axis = around.axes[a];
    require(axis.length >= 1, "axis {} of the grid has {} cells; 1 or more are accepted", a, axis.length);
    require(a < around.rank || axis.length == 1, "axis {} of a grid of {} axes has {} cells; 1 is accepted", a,
            around.rank, axis.length);
    require(axis.dilation >= 1 && axis.dilation <= axis.length,
            "dilation {} along axis {} of {} cells; 1 to {} is accepted", axis.dilation, a, axis.length, axis.length);
    const int64_t most = axis.length / axis.dilation;
    require(axis.window >= 1 && axis.window <= most,
            "window {} along axis {} of {} cells and dilation {}; 1 to {} is accepted", axis.window, a, axis.length,
            axis.dilation, most);
    require(axis.stride >= 1 && axis.stride <= axis.window, "stride {} along axis {} of window {}; 1 to {} is accepted",
            axis.stride, a, axis.window, axis.window);
  }
  require(around.tokens() <= int64_t{1} << 30, "a grid of {} tokens; 2^30 at most are accepted", around.tokens());
}

bool sees(const Neighborhood& around, int64_t i, int64_t j) {
  for (int a = 2; a >= 0; --a) {
    const NeighborhoodAxis& axis = around.axes[a];
    const int64_t own = i % axis.length, other = j % axis.length, e = axis.dilation;
    i /= axis.length, j /= axis.length;
    if (own % e != other % e) return false;
    if (!window_at(axis, axis.group_length(own), own / e).holds(other / e)) return false;
  }
  return true;
}

int64_t visible_pairs(const Neighborhood& around) {
  int64_t pairs = 1;
  for (const NeighborhoodAxis& axis : around.axes) {
    int64_t of_axis = 0;
    for (int64_t i = 0; i < axis.length; ++i)
      of_axis += window_at(axis, axis.group_length(i), i / axis.dilation).size();
    pairs *= of_axis;
  }
  return pairs;
}

void check(const NeighborhoodParams& n) {
  check(n.around);
  const FlashParams& p = n.attention;
  const int64_t tokens = n.around.tokens();
  require(p.q.size[2] == tokens, "q has {} tokens, the grid {} x {} x {} has {}; equal numbers are accepted",
          p.q.size[2], n.around.axes[0].length, n.around.axes[1].length, n.around.axes[2].length, tokens);
  require(p.k.size[2] >= tokens, "k has {} tokens, the grid {}; as many or more are accepted", p.k.size[2], tokens);
  require(p.q_lengths == nullptr && p.k_lengths == nullptr && p.cu_q == nullptr && p.cu_k == nullptr,
          "a neighbourhood with lengths or packed sequences; every item is one grid");
  require(p.mask.everything() && p.blocks == nullptr, "a neighbourhood together with a mask or a block list");
  const Scores& s = p.scores;
  require(s.alibi_slopes == nullptr && !s.bias && !s.temperature && !s.multiplier && p.dropout.probability == 0,
          "a neighbourhood with ALiBi, bias, temperature, multiplier or dropout; the soft cap alone is accepted");
  require(p.normalizer.kind == Normalizer::Kind::softmax,
          "a neighbourhood with another normaliser; softmax is accepted, with or without a sink");
  check(p);
}

namespace {

bool takes_reference(const FlashParams& p) { return use_reference() || p.q.dtype == DType::f64; }

/// The call as the engine takes it: queries and keys are counted in slots of the order.
FlashParams in_slots(const NeighborhoodParams& n, const NeighborhoodOrder& order) {
  FlashParams p = n.attention;
  p.q.size[2] = p.out.size[2] = order.query_slots();
  if (p.lse) p.lse.size[2] = order.query_slots();
  p.k.size[2] = p.v.size[2] = order.key_slots();
  return p;
}

NeighborhoodOrder order_of(const NeighborhoodParams& n, int64_t most_rows) {
  const FlashParams& p = n.attention;
  return NeighborhoodOrder(n.around, p.k.size[2] - n.around.tokens(), most_rows,
                           n.hidden_keys == nullptr ? 0 : p.q.size[0], n.hidden_keys);
}

}  // namespace

NeighborhoodTiling neighborhood_tiling(const Neighborhood& around) {
  check(around);
  const NeighborhoodOrder order(around, 0, kMostForwardRows, 0, nullptr);
  const int64_t lanes = engine_lanes();
  NeighborhoodTiling tiling;
  tiling.strip = order.shape().strip;
  tiling.tile_pairs = order.tile_pairs(TileShape::kQueries);
  tiling.part_pairs = order.tile_pairs(lanes);
  const TileRange part = range_in_tile(order.shape().tile, 0, lanes);
  // A grid's axes are the last of the tiles', but for a single one.
  const int first = around.rank == 1 ? 1 : 3 - around.rank;
  for (int a = 0; a < around.rank; ++a) {
    tiling.tile[a] = order.shape().tile[first + a];
    tiling.part[a] = part.high[first + a] - part.low[first + a] + 1;
  }
  return tiling;
}

void neighborhood_forward(const NeighborhoodParams& n) {
  if (takes_reference(n.attention)) return reference::neighborhood_forward(n);
  check(n);
  const NeighborhoodOrder order = order_of(n, forward_rows_of(n.attention));
  const FlashParams slots = in_slots(n, order);
  run_forward(FlashTask(slots, {}, &order));
}

void neighborhood_backward(const NeighborhoodParams& n, const FlashGrads& grads) {
  if (takes_reference(n.attention)) return reference::neighborhood_backward(n, grads);
  check(n);
  check(n.attention, grads);
  const NeighborhoodOrder order = order_of(n, kBlockRows);
  const FlashParams slots = in_slots(n, order);
  run_backward(FlashTask(slots, {}, &order), grads);
}

}  // namespace heed::kernels
