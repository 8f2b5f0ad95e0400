#include "kernels/neighborhood_tiles.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace heed::kernels {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Keys along an axis that `count` neighbouring queries see together, away from the borders.
int64_t reach(const NeighborhoodAxis& axis, int64_t length, int64_t count) {
  const int64_t windows = count % axis.stride == 0 ? count / axis.stride : (count + axis.stride - 2) / axis.stride + 1;
  return std::min(length, (windows - 1) * axis.stride + axis.window);
}

/// Keys of whole strips that hold `keys` neighbouring ones, on average over tiles that begin every `step` cells and
/// once where a strip does.
double in_strips(int64_t keys, int64_t step, int64_t strip) {
  const int64_t grain = std::gcd(step, strip);
  int64_t strips = 0;
  for (int64_t phase = 0; phase < strip; phase += grain) strips += ceil_div(phase + keys, strip);
  return static_cast<double>(strips * grain);
}

/// Time of all tiles, in products of a vector of queries with a key.
double work(const TileAxes& axes, const std::array<int64_t, 3>& tile, int64_t strip) {
  // What a run of keys costs a tile beside its products: finding out who sees what, and the way of sums to memory.
  constexpr double kRun = 6;
  constexpr int64_t kVector = 16, kVectors = TileShape::kQueries / kVector;
  double tiles = 1;
  for (int a = 0; a < 3; ++a) tiles *= static_cast<double>(axes.axes[a].dilation * ceil_div(axes.length(a), tile[a]));
  const auto box = [&](const std::array<int64_t, 3>& extent) {
    std::array<int64_t, 3> keys{};
    for (int a = 0; a < 3; ++a) keys[a] = reach(axes.axes[a], axes.length(a), extent[a]);
    return keys;
  };
  double products = 0;
  for (int64_t v = 0; v < kVectors; ++v) {
    const TileRange range = range_in_tile(tile, v * kVector, kVector);
    std::array<int64_t, 3> extent{};
    for (int a = 0; a < 3; ++a) extent[a] = range.high[a] - range.low[a] + 1;
    const auto keys = box(extent);
    products += static_cast<double>(keys[0] * keys[1]) * in_strips(keys[2], tile[2], strip);
  }
  const auto keys = box(tile);
  const double runs = static_cast<double>(keys[0]) * in_strips(keys[2], tile[2], strip) / static_cast<double>(strip);
  return tiles * (products + kRun * kVectors * runs);
}

}  // namespace

TileAxes::TileAxes(const Neighborhood& around) {
  if (around.rank == 1) {
    axes = {NeighborhoodAxis{}, around.axes[0], NeighborhoodAxis{}};
  } else if (around.rank == 2) {
    axes = {NeighborhoodAxis{}, around.axes[0], around.axes[1]};
  } else {
    axes = around.axes;
  }
}

TileRange range_in_tile(const std::array<int64_t, 3>& tile, int64_t first, int64_t count) {
  TileRange range{};
  int64_t low = first, high = first + count - 1;
  bool whole = false;  // the range crosses rows of an outer axis
  const int64_t below[3] = {tile[1] * tile[2], tile[2], 1};
  for (int a = 0; a < 3; ++a) {
    range.low[a] = whole ? 0 : low / below[a];
    range.high[a] = whole ? tile[a] - 1 : high / below[a];
    whole |= range.low[a] != range.high[a];
    low %= below[a], high %= below[a];
  }
  return range;
}

TileShape choose_tiles(const TileAxes& axes, int64_t most_rows) {
  TileShape best{};
  double least = std::numeric_limits<double>::infinity();
  constexpr int64_t kQueries = TileShape::kQueries;
  for (int64_t x = 1; x <= kQueries; ++x) {
    for (int64_t y = 1; y <= kQueries / x; ++y) {
      if (kQueries % x != 0 || kQueries / x % y != 0) continue;
      const std::array<int64_t, 3> tile{kQueries / x / y, y, x};
      for (const int64_t strip : {1, 2, 4, 8, 16}) {
        const double cost = work(axes, tile, strip);
        if (cost < least) least = cost, best.tile = tile, best.strip = strip;
      }
    }
  }
  // Blocks grow where the grid still has tiles, the axis of the fewest queries first.
  best.block = {1, 1, 1};
  for (int64_t tiles = 1;;) {
    int grown = -1;
    for (const int a : {2, 1, 0}) {
      const int64_t there = ceil_div(axes.length(a), best.tile[a]);
      if (tiles / best.block[a] * std::min(there, best.block[a] + 1) * kQueries > most_rows || best.block[a] >= there)
        continue;
      if (grown < 0 || best.block[a] * best.tile[a] < best.block[grown] * best.tile[grown]) grown = a;
    }
    if (grown < 0) break;
    ++best.block[grown];
    tiles = best.block[0] * best.block[1] * best.block[2];
  }
  // As many blocks as that takes, none larger than it must be.
  for (int a = 0; a < 3; ++a) {
    const int64_t there = ceil_div(axes.length(a), best.tile[a]);
    best.block[a] = ceil_div(there, ceil_div(there, best.block[a]));
  }
  // Strips begin where the window of a tile away from the border does.
  const NeighborhoodAxis& x = axes.axes[2];
  const int64_t inner = ceil_div(x.window, best.tile[2]) * best.tile[2];
  best.shift = 0;
  if (inner < axes.length(2)) {
    const int64_t begin = window_at(x, axes.length(2), inner).begin;
    best.shift = (best.strip - begin % best.strip) % best.strip;
  }
  return best;
}

}  // namespace heed::kernels
