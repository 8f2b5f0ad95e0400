#include "heed/bench/neighborhood_simulator.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::bench {
namespace {

using kernels::NeighborhoodAxis;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The most key tiles that the windows of one query tile meet along an axis. Groups of a dilation are axes of their
/// own; the largest is the first.
int64_t most_visited(const NeighborhoodAxis& axis, int64_t queries, int64_t keys, bool dynamic) {
  const int64_t length = axis.group_length(0);
  int64_t most = 0;
  for (int64_t first = 0; first < length; first += queries) {
    const int64_t last = std::min(first + queries, length) - 1;
    const int64_t begin = kernels::window_at(axis, length, first).begin,
                  end = kernels::window_at(axis, length, last).end;
    most = std::max(most, dynamic ? ceil_div(end - begin, keys) : (end - 1) / keys - begin / keys + 1);
  }
  return most;
}

double speed_up(const kernels::Neighborhood& around, const SimulatedTiles& tiles, std::array<int64_t, 3>& visited) {
  double gain = 1;
  for (int a = 0; a < 3; ++a) {
    visited[a] = most_visited(around.axes[a], tiles.queries[a], tiles.keys[a], tiles.dynamic);
    gain *= static_cast<double>(ceil_div(around.axes[a].length, tiles.keys[a])) / static_cast<double>(visited[a]);
  }
  return gain;
}

}  // namespace

Simulation simulate(const kernels::Neighborhood& around, const SimulatedTiles& tiles) {
  check(around);
  for (int a = 0; a < 3; ++a)
    require(tiles.queries[a] >= 1 && tiles.keys[a] >= 1,
            "tiles of {} queries and {} keys along axis {}; 1 or more are accepted", tiles.queries[a], tiles.keys[a],
            a);
  Simulation result;
  result.speed_up = speed_up(around, tiles, result.visited);
  kernels::Neighborhood sliding = around;
  for (auto& axis : sliding.axes) axis.stride = 1;
  std::array<int64_t, 3> of_sliding{};
  result.over_stride_one = result.speed_up / speed_up(sliding, tiles, of_sliding);
  const auto tokens = static_cast<double>(around.tokens());
  result.bound = tokens * tokens / static_cast<double>(kernels::visible_pairs(around));
  result.perfect = true;
  for (int a = 0; a < 3; ++a) result.perfect &= result.visited[a] * tiles.keys[a] == around.axes[a].window;
  return result;
}

double end_to_end(double attention_share, double speed_up) {
  require(attention_share >= 0 && attention_share <= 1, "attention share {}; 0 to 1 is accepted", attention_share);
  return 1 / (1 - attention_share + attention_share / speed_up);
}

}  // namespace heed::bench
