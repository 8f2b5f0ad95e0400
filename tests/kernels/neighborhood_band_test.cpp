// Explicit neighbourhoods: against double, against each other, against the fused kernel.
#include "heed/kernels/neighborhood_band.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/grid_draw.h"
#include "support/tensor.h"

namespace heed::testing::neighborhood_band_test {
namespace {

using namespace kernels;

/// Tensors of one call in a type; rows and keys are drawn, the band where asked.
struct BandCase {
  Neighborhood around;
  Tensor rows, keys, band, sums, seen;

  BandCase(const Neighborhood& around, int64_t heads, int64_t key_heads, int64_t d, DType dtype, uint64_t seed,
           Layout layout = Layout::dense)
      : around(around),
        rows(dtype, {2, heads, around.tokens(), d}, layout),
        keys(dtype, {2, key_heads, around.tokens(), d}, layout),
        band(dtype, {2, heads, around.tokens(), around.window_keys()}),
        sums(dtype, rows.size(), layout),
        seen(dtype, keys.size(), layout) {
    std::mt19937_64 random(seed);
    rows.normal(random), keys.normal(random);
  }
};

class BandOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, BandOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(BandOnIsa, MatchesReference) {
  HEED_SEED(random, 20240307);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 24; ++round) {
    const int64_t longest[] = {60, 11, 5};
    const Neighborhood around = draw_grid(random, 1 + round % 3, longest[round % 3]);
    const int64_t key_heads = 1 + below(2), heads = key_heads * (1 + below(3)),
                  d = 1 + below(round % 4 == 0 ? 150 : 40);
    SCOPED_TRACE(text_of(around) + fmt::format(" H {} Hk {} D {}", heads, key_heads, d));
    BandCase fast(around, heads, key_heads, d, DType::f32, random(), layouts[round % 4]);
    BandCase slow = fast;
    band_scores(around, fast.rows, fast.keys, 0.7, -INFINITY, fast.band);
    reference::band_scores(around, slow.rows, slow.keys, 0.7, -INFINITY, slow.band);
    EXPECT_LE(relative_error(fast.band, slow.band), 1e-6);
    fast.band.normal(random);
    slow.band = fast.band;
    band_sums(around, fast.band, fast.keys, fast.sums);
    band_sums_of_seeing(around, fast.band, fast.rows, fast.seen);
    reference::band_sums(around, slow.band, slow.keys, slow.sums);
    reference::band_sums_of_seeing(around, slow.band, slow.rows, slow.seen);
    EXPECT_LE(relative_error(fast.sums, slow.sums), 2e-6);
    EXPECT_LE(relative_error(fast.seen, slow.seen), 2e-6);
    for (const Tensor* tensor : {&fast.band, &fast.sums, &fast.seen}) tensor->check_guards("output");
  }
}

/// <NN(A, V), G> = <V, IN(A, G)> = <A, PN(G, V)>.
TEST(NeighborhoodBand, TheThreeAreAdjoint) {
  HEED_SEED(random, 20240308);
  const auto product = [](const Tensor& a, const Tensor& b) {
    double sum = 0;
    a.each([&](int64_t i, int64_t j, int64_t n, int64_t d) { sum += a.at(i, j, n, d) * b.at(i, j, n, d); });
    return sum;
  };
  for (int round = 0; round < 12; ++round) {
    const int64_t longest[] = {40, 9, 5};
    const Neighborhood around = draw_grid(random, 1 + round % 3, longest[round % 3]);
    SCOPED_TRACE(text_of(around));
    BandCase made(around, 4, 2, 5, DType::f64, random());
    Tensor weights = made.band;
    weights.normal(random);
    band_sums(around, weights, made.keys, made.sums);
    band_sums_of_seeing(around, weights, made.rows, made.seen);
    band_scores(around, made.rows, made.keys, 1, 0, made.band);
    const double first = product(made.sums, made.rows), size = std::fabs(first) + 1;
    EXPECT_NEAR(product(made.seen, made.keys), first, 1e-12 * size * 100);
    EXPECT_NEAR(product(made.band, weights), first, 1e-12 * size * 100);
  }
}

TEST(NeighborhoodBand, SoftmaxOfScoresIsTheFusedKernel) {
  HEED_SEED(random, 20240309);
  for (int round = 0; round < 9; ++round) {
    const int64_t longest[] = {60, 12, 6};
    const Neighborhood around = draw_grid(random, 1 + round % 3, longest[round % 3]);
    SCOPED_TRACE(text_of(around));
    BandCase made(around, 4, 2, 16, DType::f32, random());
    band_scores(around, made.rows, made.keys, 0.25, -INFINITY, made.band);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t h = 0; h < 4; ++h) {
        for (int64_t i = 0; i < around.tokens(); ++i) {
          double sum = 0;
          for (int64_t p = 0; p < around.window_keys(); ++p) sum += std::exp(made.band.at(b, h, i, p));
          for (int64_t p = 0; p < around.window_keys(); ++p)
            made.band.set(b, h, i, p, std::exp(made.band.at(b, h, i, p)) / sum);
        }
      }
    }
    band_sums(around, made.band, made.keys, made.sums);
    Tensor fused(DType::f32, made.rows.size());
    NeighborhoodParams p;
    p.around = around;
    p.attention.q = made.rows, p.attention.k = made.keys, p.attention.v = made.keys, p.attention.out = fused;
    p.attention.scale = 0.25;
    neighborhood_forward(p);
    EXPECT_LE(relative_error(made.sums, fused), 1e-5);
  }
}

TEST(NeighborhoodBand, SaysWhatDoesNotFit) {
  const Neighborhood around = grid_of({{4, 3}, {5, 3}});
  BandCase made(around, 2, 1, 4, DType::f32, 1);
  Tensor narrow(DType::f32, {2, 2, 20, 8}), half(DType::f16, made.rows.size());
  EXPECT_THROW(band_scores(around, made.rows, made.keys, 1, 0, narrow), Error);
  EXPECT_THROW(band_scores(around, half, made.keys, 1, 0, made.band), Error);
  EXPECT_THROW(band_sums(grid_of({{4, 3}, {4, 3}}), made.band, made.keys, made.sums), Error);
}

}  // namespace
}  // namespace heed::testing::neighborhood_band_test
