#include "heed/tasks/cue_grid.h"

#include <gtest/gtest.h>

#include <set>

#include "heed/error.h"

namespace heed::tasks::cue_grid_test {
namespace {

/// Steps from a cell to a pad, rows first; going round the corners of other pads is not needed then or with columns
/// first.
std::vector<int64_t> way(const CueGrid& world, int64_t pad) {
  const int64_t last = world.config().side - 1, row = pad / 2 * last, column = pad % 2 * last;
  std::vector<int64_t> rows(size_t(std::abs(world.row() - row)), row < world.row() ? 0 : 1),
      columns(size_t(std::abs(world.column() - column)), column < world.column() ? 2 : 3);
  const bool on_edge = world.column() == 0 || world.column() == last;
  auto& first = on_edge ? columns : rows;
  auto& second = on_edge ? rows : columns;
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TEST(CueGrid, ThePadOfTheCueIsWorthOneAndTheOthersMinusOne) {
  for (uint64_t episode = 0; episode < 50; ++episode)
    for (int64_t pad = 0; pad < CueGrid::kPads; ++pad) {
      CueGrid world;
      world.begin(Split::train, episode);
      CueGrid::Outcome outcome;
      for (const int64_t action : way(world, pad)) {
        ASSERT_FALSE(outcome.end);
        EXPECT_EQ(outcome.reward, 0);
        outcome = world.step(action);
      }
      EXPECT_TRUE(outcome.end);
      EXPECT_EQ(outcome.reward, pad == world.cue() ? 1 : -1);
      EXPECT_THROW(world.step(0), Error);
    }
}

TEST(CueGrid, TheCueIsShownOnce) {
  CueGrid world;
  std::set<int64_t> cues;
  for (uint64_t episode = 0; episode < 40; ++episode) {
    world.begin(Split::test, episode);
    cues.insert(world.cue());
    // Every cell in view has the tint of the cue, and no other.
    const auto tints = [&] {
      const auto seen = world.observation();
      EXPECT_EQ(int64_t(seen.size()), world.observation_size());
      std::vector<float> sums(CueGrid::kPads);
      for (size_t i = 0; i < seen.size(); ++i)
        if (const auto at = int64_t(i) % CueGrid::kPerCell - 1 - CueGrid::kPads; at >= 0) sums[size_t(at)] += seen[i];
      return sums;
    };
    std::vector<float> expected(CueGrid::kPads);
    expected[size_t(world.cue())] = 9;
    EXPECT_EQ(tints(), expected);
    world.step(0);
    EXPECT_EQ(tints(), std::vector<float>(CueGrid::kPads));
  }
  EXPECT_EQ(cues.size(), 4u);
}

TEST(CueGrid, TheViewHoldsWallsAndPads) {
  CueGridConfig config;
  config.view = 2;
  CueGrid world(config);
  world.begin(Split::train, 3);
  for (int64_t i = 0; i < 12 && world.row() > 0; ++i)
    if (world.step(0).end) break;
  const auto seen = world.observation();
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t c = 0; c < 5; ++c) {
      const int64_t row = world.row() + r - 2, column = world.column() + c - 2;
      const auto* cell = seen.data() + (r * 5 + c) * CueGrid::kPerCell;
      const bool wall = row < 0 || row > 4 || column < 0 || column > 4;
      EXPECT_EQ(cell[0], wall);
      for (int64_t pad = 0; pad < CueGrid::kPads; ++pad)
        EXPECT_EQ(cell[1 + pad], !wall && world.pad(row, column) == pad);
    }
}

TEST(CueGrid, EpisodesEndAtTheirLimitAndRepeat) {
  CueGridConfig config;
  config.limit = 3;
  config.side = 9;
  CueGrid world(config);
  int64_t ends = 0;
  for (uint64_t episode = 0; episode < 20; ++episode) {
    world.begin(Split::train, episode);
    const auto first = world.observation();
    int64_t steps = 1;
    while (!world.step(steps % 2).end) ++steps;
    EXPECT_LE(steps, 3);
    ends += steps == 3;
    world.begin(Split::train, episode);
    EXPECT_EQ(world.observation(), first);
  }
  EXPECT_GT(ends, 10);
  EXPECT_THROW(world.step(4), Error);
  config.side = 2;
  EXPECT_THROW(CueGrid{config}, Error);
}

}  // namespace
}  // namespace heed::tasks::cue_grid_test
