// Attention to windows on a grid: the definition against its own words, the tiled kernel against the double reference.
#include "heed/kernels/neighborhood.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/neighborhood_order.h"
#include "support/flash_case.h"
#include "support/grid_draw.h"

namespace heed::testing::neighborhood_test {
namespace {

using namespace kernels;

/// The window of cell i as the paper words it: whole groups are listed, and cut where they end.
std::vector<int64_t> worded_window(const NeighborhoodAxis& axis, int64_t i) {
  std::vector<int64_t> group;
  for (int64_t c = i % axis.dilation; c < axis.length; c += axis.dilation) group.push_back(c);
  const int64_t last = static_cast<int64_t>(group.size()) - 1, own = i / axis.dilation, s = axis.stride;
  const int64_t left = axis.window / 2, right = axis.window / 2 + axis.window % 2 - 1;
  std::vector<int64_t> window;
  if (axis.causal) {
    const int64_t leader = std::min((own / s) * s + s - 1, last);
    for (int64_t c = leader - left - right; c <= own; ++c)
      if (c >= 0) window.push_back(group[c]);
    return window;
  }
  const int64_t leader = std::min((own / s) * s + s / 2, last);
  int64_t start = std::max<int64_t>(leader - left, 0);
  if (leader + right > last) start += last + 1 - right - leader - 1;
  for (int64_t c = start; c < start + axis.window; ++c) window.push_back(group[c]);
  return window;
}

TEST(NeighborhoodWindow, GoldenRows) {
  const auto begins = [](const NeighborhoodAxis& axis) {
    std::vector<std::pair<int64_t, int64_t>> windows;
    for (int64_t c = 0; c < axis.length; ++c) {
      const AxisWindow w = window_at(axis, axis.length, c);
      windows.push_back({w.begin, w.end});
    }
    return windows;
  };
  using Rows = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(begins({8, 4, 2}), (Rows{{0, 4}, {0, 4}, {1, 5}, {1, 5}, {3, 7}, {3, 7}, {4, 8}, {4, 8}}));
  EXPECT_EQ(begins({8, 3, 1}), (Rows{{0, 3}, {0, 3}, {1, 4}, {2, 5}, {3, 6}, {4, 7}, {5, 8}, {5, 8}}));
  const auto causal = begins({8, 4, 2, 1, true});
  EXPECT_EQ(causal[4], (std::pair<int64_t, int64_t>{2, 5}));
  EXPECT_EQ(causal[5], (std::pair<int64_t, int64_t>{2, 6}));
  EXPECT_EQ(begins({6, 3, 3}), (Rows{{0, 3}, {0, 3}, {0, 3}, {3, 6}, {3, 6}, {3, 6}}));
}

TEST(NeighborhoodWindow, AxesCombineAsThePaperWordsThem) {
  HEED_SEED(random, 20250423);
  for (int round = 0; round < 60; ++round) {
    const Neighborhood around = draw_grid(random, 1 + round % 3, round % 3 == 0 ? 24 : round % 3 == 1 ? 9 : 5);
    SCOPED_TRACE(text_of(around));
    check(around);
    const int64_t tokens = around.tokens();
    int64_t pairs = 0;
    bool causal = false;
    for (const auto& axis : around.axes) causal |= axis.causal;
    for (int64_t i = 0; i < tokens; ++i) {
      std::vector<int64_t> keys{0};
      for (int a = 0; a < 3; ++a) {
        int64_t below = 1;
        for (int b = a + 1; b < 3; ++b) below *= around.axes[b].length;
        const auto window = worded_window(around.axes[a], i / below % around.axes[a].length);
        std::vector<int64_t> next;
        for (const int64_t key : keys)
          for (const int64_t c : window) next.push_back(key * around.axes[a].length + c);
        keys = next;
      }
      std::sort(keys.begin(), keys.end());
      std::vector<int64_t> seen;
      for (int64_t j = 0; j < tokens; ++j)
        if (sees(around, i, j)) seen.push_back(j);
      ASSERT_EQ(seen, keys) << "token " << i;
      if (!causal) {
        ASSERT_EQ(static_cast<int64_t>(seen.size()), around.window_keys());
      }
      pairs += static_cast<int64_t>(seen.size());
    }
    EXPECT_EQ(visible_pairs(around), pairs);
  }
}

/// Every token has one slot, and what an order covers is what tokens see.
TEST(NeighborhoodOrder, CoversWhatIsSeen) {
  HEED_SEED(random, 20250424);
  for (int round = 0; round < 40; ++round) {
    const int64_t longest[] = {150, 30, 11};
    const Neighborhood around = draw_grid(random, 1 + round % 3, longest[round % 3]);
    const int64_t tokens = around.tokens(), extra = round % 4 == 0 ? 5 : 0;
    std::vector<uint8_t> hidden(2 * (tokens + extra));
    for (auto& h : hidden) h = random() % 8 == 0;
    const bool hides = round % 2 == 0;
    const NeighborhoodOrder order(around, extra, round % 5 == 0 ? 96 : 768, 2, hides ? hidden.data() : nullptr);
    SCOPED_TRACE(text_of(around) + fmt::format(" extra {} tile {}x{}x{} strip {} shift {}", extra,
                                               order.shape().tile[0], order.shape().tile[1], order.shape().tile[2],
                                               order.shape().strip, order.shape().shift));
    std::vector<int> queries(tokens), keys(tokens + extra);
    for (int64_t i = 0; i < order.query_slots(); ++i)
      if (order.query_rows()[i] >= 0) ++queries[order.query_rows()[i]];
    for (int64_t j = 0; j < order.key_slots(); ++j)
      if (order.key_rows()[j] >= 0) ++keys[order.key_rows()[j]];
    EXPECT_EQ(queries, std::vector<int>(tokens, 1));
    EXPECT_EQ(keys, std::vector<int>(tokens + extra, 1));
    ASSERT_EQ(order.query_slots() % order.block_rows(), 0);
    for (const int64_t lanes : {48, 24, 12}) {
      constexpr int64_t kWidth = 48;
      for (int64_t i0 = 0; i0 < order.query_slots(); i0 += lanes) {
        std::vector<int64_t> got;
        for (const auto* run = order.begin_runs(i0); run != order.end_runs(i0); ++run) {
          for (int64_t j0 = run->begin; j0 < run->end; j0 += 128) {
            std::vector<uint32_t> bits(4 * kWidth, 0xFFFFFFFFu);
            const TileCover cover = order.cover(1, i0, lanes, j0, std::min(j0 + 128, run->end), kWidth, bits.data());
            ASSERT_TRUE(cover.empty() || (j0 <= cover.begin && cover.end <= std::min(j0 + 128, run->end)));
            for (int64_t j = cover.begin; j < cover.end; ++j) {
              const int64_t c = j - cover.begin;
              for (int64_t r = 0; r < lanes; ++r) {
                const bool seen = !cover.masked || (bits[c / 32 * kWidth + r] >> (c % 32) & 1) != 0;
                if (seen) got.push_back(int64_t{order.query_rows()[i0 + r]} * (tokens + extra) + order.key_rows()[j]);
              }
            }
          }
        }
        std::vector<int64_t> want;
        for (int64_t r = 0; r < lanes; ++r) {
          const int64_t i = order.query_rows()[i0 + r];
          for (int64_t j = 0; i >= 0 && j < tokens + extra; ++j) {
            const bool seen = (j >= tokens || sees(around, i, j)) && !(hides && hidden[tokens + extra + j] != 0);
            if (seen) want.push_back(i * (tokens + extra) + j);
          }
        }
        std::sort(got.begin(), got.end()), std::sort(want.begin(), want.end());
        ASSERT_EQ(got, want) << "queries from slot " << i0;
      }
    }
  }
}

struct GridCase {
  FlashCase flash;
  Neighborhood around;
  std::vector<uint8_t> hidden;

  GridCase(const Neighborhood& around, const FlashShape& shape, const FlashFeatures& features, DType dtype,
           uint64_t seed, Layout layout = Layout::dense, bool hides = false)
      : flash(shape, features, dtype, seed, layout), around(around) {
    std::mt19937_64 random(seed + 1);
    if (hides) hidden.resize(shape.batch * shape.keys);
    for (auto& h : hidden) h = random() % 6 == 0;
  }
  NeighborhoodParams params() const { return {flash.params(), around, hidden.empty() ? nullptr : hidden.data()}; }
};

FlashShape shape_of(const Neighborhood& around, int64_t extra = 0) {
  FlashShape shape;
  shape.queries = around.tokens(), shape.keys = shape.queries + extra;
  return shape;
}

void expect_matches(GridCase& made, double forward, double backward) {
  GridCase expected = made;
  neighborhood_forward(made.params());
  reference::neighborhood_forward(expected.params());
  reference::neighborhood_backward(expected.params(), expected.flash.grads());
  neighborhood_backward(made.params(), made.flash.grads());
  made.flash.check_guards();
  for (const bool grads : {false, true}) {
    auto got = made.flash.outputs(grads), want = expected.flash.outputs(grads);
    for (size_t t = 0; t < got.size(); ++t)
      EXPECT_LE(relative_error(*got[t].second, *want[t].second), grads ? backward : forward) << got[t].first;
  }
}

class NeighborhoodOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, NeighborhoodOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(NeighborhoodOnIsa, MatchesReferenceOverRandomGrids) {
  HEED_SEED(random, 20250425);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 36; ++round) {
    const int64_t longest[] = {300, 24, 9};
    const Neighborhood around = draw_grid(random, 1 + round % 3, longest[round % 3]);
    FlashShape shape = shape_of(around, round % 4 == 1 ? 1 + below(70) : 0);
    shape.batch = 1 + below(2), shape.k_heads = shape.v_heads = 1 + below(2);
    shape.q_heads = shape.k_heads * (1 + below(3)), shape.d = 1 + below(70), shape.dv = 1 + below(40);
    FlashFeatures features;
    features.sink = round % 5 == 2, features.softcap = round % 6 == 3 ? 2 : 0;
    features.logit_size = round % 3 == 0 ? 9 : 1;
    SCOPED_TRACE(text_of(around) + fmt::format(" B {} Hq {} Hk {} D {} Dv {} M {}", shape.batch, shape.q_heads,
                                               shape.k_heads, shape.d, shape.dv, shape.keys));
    GridCase made(around, shape, features, DType::f32, random(), layouts[round % 4], round % 3 == 1);
    expect_matches(made, 1e-5, 1e-4);
  }
}

TEST_P(NeighborhoodOnIsa, SmallFloatsMatchReference) {
  HEED_SEED(random, 20250426);
  // The rounding of the inputs is shared; the output, and in the backward the weights' products, are rounded once.
  for (const auto& [dtype, unit] : {std::pair{DType::bf16, std::ldexp(1, -8)}, {DType::f16, std::ldexp(1, -11)}}) {
    const Neighborhood around = grid_of({{13, 5, 2}, {22, 6, 1, 2}});
    FlashShape shape = shape_of(around);
    shape.q_heads = 4, shape.k_heads = shape.v_heads = 2, shape.d = 40, shape.dv = 24;
    GridCase made(around, shape, {}, dtype, random());
    expect_matches(made, 2 * unit, 4 * unit);
  }
}

/// A call with several blocks a head, more than one part of the backward, and rows in all of them.
TEST_P(NeighborhoodOnIsa, LargeGridsMatchReference) {
  HEED_SEED(random, 20250427);
  const std::vector<Neighborhood> grids{grid_of({{70, 5}, {61, 7}}),
                                        grid_of({{12, 3}, {14, 3, 2}, {20, 5, 1, 1, true}}), grid_of({{3000, 65}}),
                                        grid_of({{64, 5, 1, 3}, {48, 3, 1, 2}})};
  for (const Neighborhood& around : grids) {
    SCOPED_TRACE(text_of(around));
    FlashShape shape = shape_of(around);
    shape.q_heads = 1, shape.d = 16, shape.dv = 8;
    GridCase made(around, shape, {}, DType::f32, random());
    expect_matches(made, 1e-5, 1e-4);
  }
}

TEST(Neighborhood, WholeWindowsAreDense) {
  HEED_SEED(random, 5);
  const Neighborhood around = grid_of({{6, 6}, {11, 11}});
  GridCase made(around, shape_of(around), {}, DType::f32, random());
  GridCase dense = made;
  neighborhood_forward(made.params());
  flash_forward(dense.flash.params());
  EXPECT_LE(relative_error(made.flash.out, dense.flash.out), 1e-6);
  EXPECT_LE(relative_error(made.flash.lse, dense.flash.lse), 1e-6);
}

TEST(Neighborhood, AWindowOfOneCellReturnsItsValue) {
  HEED_SEED(random, 6);
  const Neighborhood around = grid_of({{7, 1}, {9, 1}});
  FlashShape shape = shape_of(around);
  shape.q_heads = shape.k_heads = shape.v_heads = 2;
  GridCase made(around, shape, {}, DType::f32, random());
  neighborhood_forward(made.params());
  EXPECT_LE(relative_error(made.flash.out, made.flash.v), 1e-6);
}

TEST(Neighborhood, StridesOfAWindowAreBlocksApart) {
  HEED_SEED(random, 7);
  const Neighborhood around = grid_of({{6, 3, 3}, {8, 4, 4}});
  GridCase made(around, shape_of(around), {}, DType::f32, random());
  GridCase blocks = made;
  neighborhood_forward(made.params());
  auto p = blocks.flash.params();
  p.mask = Predicate{[](const void*, int64_t, int64_t, int64_t i, int64_t j) {
    return i / 8 / 3 == j / 8 / 3 && i % 8 / 4 == j % 8 / 4;
  }};
  reference::flash_forward(p);
  EXPECT_LE(relative_error(made.flash.out, blocks.flash.out), 1e-6);
}

TEST(Neighborhood, NaNReachesExactlyTheQueriesThatSeeIt) {
  HEED_SEED(random, 8);
  const Neighborhood around = grid_of({{11, 4, 2}, {17, 5, 1, 2}});
  const int64_t poisoned = 5 * 17 + 8;
  GridCase made(around, shape_of(around), {}, DType::f32, random());
  for (Tensor* tensor : {&made.flash.k, &made.flash.v}) {
    GridCase bad = made;
    (tensor == &made.flash.k ? bad.flash.k : bad.flash.v).set(0, 0, poisoned, 3, NAN);
    neighborhood_forward(bad.params());
    for (int64_t i = 0; i < around.tokens(); ++i)
      EXPECT_EQ(std::isnan(bad.flash.out.at(0, 1, i, 3)), sees(around, i, poisoned)) << "query " << i;
  }
}

TEST(Neighborhood, ThreadsChangeNoBit) {
  HEED_SEED(random, 9);
  const Neighborhood around = grid_of({{40, 7}, {50, 5}});
  GridCase one(around, shape_of(around), {}, DType::f32, random());
  GridCase many = one;
  const int before = num_threads();
  set_num_threads(1);
  neighborhood_forward(one.params()), neighborhood_backward(one.params(), one.flash.grads());
  set_num_threads(3);
  neighborhood_forward(many.params()), neighborhood_backward(many.params(), many.flash.grads());
  set_num_threads(before);
  for (const bool grads : {false, true}) {
    auto a = one.flash.outputs(grads), b = many.flash.outputs(grads);
    for (size_t t = 0; t < a.size(); ++t) EXPECT_TRUE(a[t].second->same_bits(*b[t].second)) << a[t].first;
  }
}

TEST(Neighborhood, TilesHoldAllPairs) {
  for (const Neighborhood& around :
       {grid_of({{256, 13}, {256, 13}}), grid_of({{16, 3}, {30, 5}, {20, 3}}), grid_of({{500, 33}}),
        grid_of({{14, 7}, {14, 7}}), grid_of({{32, 8, 8}, {48, 6, 6}})}) {
    const NeighborhoodTiling tiling = neighborhood_tiling(around);
    SCOPED_TRACE(text_of(around));
    EXPECT_EQ(tiling.tile[0] * tiling.tile[1] * tiling.tile[2], 48);
    EXPECT_GE(tiling.part_pairs, visible_pairs(around));
    EXPECT_GE(tiling.tile_pairs, tiling.part_pairs);
  }
}

TEST(Neighborhood, SaysWhatDoesNotFit) {
  const auto message = [](const Neighborhood& around, int64_t tokens) -> std::string {
    GridCase made(around, {.queries = tokens, .keys = tokens}, {}, DType::f32, 1);
    try {
      neighborhood_forward(made.params());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message(grid_of({{4, 3}, {5, 3}}), 20), "");
  EXPECT_NE(message(grid_of({{4, 3}, {5, 3}}), 21).find("q has 21 tokens, the grid 4 x 5 x 1 has 20"),
            std::string::npos);
  EXPECT_NE(message(grid_of({{4, 5}, {5, 3}}), 20).find("window 5 along axis 0 of 4 cells"), std::string::npos);
  EXPECT_NE(message(grid_of({{4, 3, 1, 2}, {5, 3}}), 20).find("dilation 2; 1 to 2 is accepted"), std::string::npos);
  EXPECT_NE(message(grid_of({{4, 3, 4}, {5, 3}}), 20).find("stride 4 along axis 0 of window 3"), std::string::npos);
  EXPECT_NE(message(grid_of({{4, 3}, {5, 0}}), 20).find("window 0"), std::string::npos);
  auto with_mask = GridCase(grid_of({{20, 3}}), {.queries = 20, .keys = 20}, {.mask = Causal{}}, DType::f32, 1);
  EXPECT_THROW(neighborhood_forward(with_mask.params()), Error);
}

}  // namespace
}  // namespace heed::testing::neighborhood_test
