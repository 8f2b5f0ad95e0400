// The simulator against the published table, and against counting tiles of the mask itself.
#include "heed/bench/neighborhood_simulator.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "heed/error.h"
#include "support/grid_draw.h"

namespace heed::bench::neighborhood_simulator_test {
namespace {

using kernels::Neighborhood;
using Sizes = std::array<int64_t, 3>;

Neighborhood layout(int rank, const Sizes& length, const Sizes& window, const Sizes& stride) {
  Neighborhood around;
  around.rank = rank;
  for (int a = 0; a < rank; ++a) around.axes[a] = {length[a], window[a], stride[a]};
  return around;
}

struct Published {
  Sizes stride;
  double speed_up;
};

void expect_published(int rank, const Sizes& length, const Sizes& window, const SimulatedTiles& tiles,
                      const std::vector<Published>& rows) {
  for (const auto& [stride, speed_up] : rows) {
    const auto got = simulate(layout(rank, length, window, stride), tiles);
    EXPECT_NEAR(got.speed_up, speed_up, 0.005) << stride[0] << "x" << stride[1] << "x" << stride[2];
    EXPECT_LE(got.speed_up, got.bound * (1 + 1e-9));
  }
}

TEST(NeighborhoodSimulator, GivesThePublishedSpeedUps) {
  expect_published(3, {30, 48, 80}, {18, 24, 24}, {{4, 8, 8}, {2, 8, 8}},
                   {{{1, 1, 1}, 3.27}, {{2, 1, 1}, 3.60}, {{1, 1, 8}, 5.45}, {{1, 8, 8}, 9.09}, {{16, 8, 8}, 11.11}});
  expect_published(3, {16, 44, 80}, {16, 24, 16}, {{8, 4, 8}, {4, 4, 8}},
                   {{{1, 1, 1}, 5.24}, {{1, 8, 1}, 6.11}, {{1, 1, 16}, 7.86}, {{1, 8, 16}, 9.17}});
  expect_published(2, {256, 256, 1}, {80, 80, 1}, {{16, 16, 1}, {16, 8, 1}},
                   {{{1, 1, 1}, 6.10}, {{16, 1, 1}, 8.53}, {{16, 16, 1}, 10.24}});
}

TEST(NeighborhoodSimulator, TheLastStrideWastesNothing) {
  const auto all = simulate(layout(3, {30, 48, 80}, {18, 24, 24}, {16, 8, 8}), {{4, 8, 8}, {2, 8, 8}});
  EXPECT_TRUE(all.perfect);
  EXPECT_NEAR(all.speed_up, all.bound, 1e-9);
  EXPECT_NEAR(all.over_stride_one, 11.11 / 3.27, 0.01);
  EXPECT_FALSE(simulate(layout(3, {30, 48, 80}, {18, 24, 24}, {1, 8, 8}), {{4, 8, 8}, {2, 8, 8}}).perfect);
}

/// Tiles on a fixed grid, counted pair by pair.
TEST(NeighborhoodSimulator, CountsTheTilesThatHoldAPair) {
  const uint64_t seed = 20250428;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 30; ++round) {
    auto around = heed::testing::draw_grid(random, 1 + round % 2, round % 2 == 0 ? 30 : 12);
    for (auto& axis : around.axes) axis.dilation = 1;
    SCOPED_TRACE(heed::testing::text_of(around));
    SimulatedTiles tiles;
    for (int a = 0; a < around.rank; ++a) tiles.queries[a] = 1 + random() % 5, tiles.keys[a] = 1 + random() % 5;
    std::map<std::pair<int64_t, int64_t>, std::array<std::set<int64_t>, 2>> met;
    const int64_t width = around.axes[1].length;
    for (int64_t i = 0; i < around.tokens(); ++i) {
      for (int64_t j = 0; j < around.tokens(); ++j) {
        if (!sees(around, i, j)) continue;
        auto& of_tile = met[{i / width / tiles.queries[0], i % width / tiles.queries[1]}];
        of_tile[0].insert(j / width / tiles.keys[0]), of_tile[1].insert(j % width / tiles.keys[1]);
      }
    }
    Sizes most{0, 0, 1};
    for (const auto& [tile, keys] : met)
      for (int a = 0; a < 2; ++a) most[a] = std::max<int64_t>(most[a], keys[a].size());
    EXPECT_EQ(simulate(around, tiles).visited, most);
  }
}

TEST(NeighborhoodSimulator, TilesThatFollowTheirWindowsVisitNoMore) {
  const auto around = layout(2, {64, 64, 1}, {13, 13, 1}, {1, 1, 1});
  const auto fixed = simulate(around, {{8, 8, 1}, {4, 4, 1}}), moving = simulate(around, {{8, 8, 1}, {4, 4, 1}, true});
  EXPECT_EQ(moving.visited, (Sizes{5, 5, 1}));
  EXPECT_EQ(fixed.visited, (Sizes{6, 6, 1}));
  EXPECT_GT(moving.speed_up, fixed.speed_up);
}

TEST(NeighborhoodSimulator, WholeModels) {
  EXPECT_NEAR(end_to_end(0.607, 3.27), 1.73, 0.01);
  EXPECT_NEAR(end_to_end(0.607, 11.11), 2.23, 0.01);
  EXPECT_NEAR(end_to_end(0.587, 5.24), 1.90, 0.01);
  EXPECT_NEAR(end_to_end(0.518, 10.24), 1.88, 0.01);
  EXPECT_THROW(end_to_end(1.5, 2), Error);
  EXPECT_THROW(simulate(layout(1, {8, 1, 1}, {9, 1, 1}, {1, 1, 1}), {}), Error);
}

}  // namespace
}  // namespace heed::bench::neighborhood_simulator_test
