// Attention to gathered keys: the tiled kernel against the double reference, and the reference against plain words.
#include "heed/kernels/panel_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/panel_order.h"
#include "support/flash_case.h"

namespace heed::testing::panel_attention_test {
namespace {

using namespace kernels;

/// Panels drawn at random: a block gathers a share of all keys, a query sees a share of those of its block.
struct DrawnPanels {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> keys;
  std::vector<uint64_t> seen;
  KeyPanels shape;

  DrawnPanels(std::mt19937_64& random, const FlashShape& flash, int64_t choosers, int64_t block, double gathered,
              double shown) {
    shape.batch = flash.batch, shape.choosers = choosers, shape.queries = flash.queries, shape.block = block;
    std::uniform_real_distribution<double> chance(0, 1);
    for (int64_t r = 0; r < shape.list_rows(); ++r) {
      const size_t before = keys.size();
      for (int64_t j = 0; r % 5 != 4 && j < flash.keys; ++j)  // some blocks have no keys
        if (chance(random) < gathered) keys.push_back(static_cast<int32_t>(j));
      offsets.push_back(static_cast<int64_t>(keys.size()));
      const auto count = static_cast<int64_t>(keys.size() - before), words = (count + 63) / 64;
      for (int64_t i = 0; i < block; ++i) {
        std::vector<uint64_t> row(words, 0);
        for (int64_t c = 0; i % 7 != 6 && c < count; ++c)  // some queries see nothing
          row[c / 64] |= static_cast<uint64_t>(chance(random) < shown) << (c % 64);
        seen.insert(seen.end(), row.begin(), row.end());
      }
    }
  }
  KeyPanels view() const {
    KeyPanels panels = shape;
    panels.offsets = offsets.data(), panels.keys = keys.data(), panels.seen = seen.data();
    return panels;
  }
  bool sees(int64_t b, int64_t chooser, int64_t i, int64_t j) const {
    const int64_t row = (b * shape.choosers + chooser) * shape.blocks() + i / shape.block;
    int64_t word = 0;
    for (int64_t r = 0; r < row; ++r) word += shape.block * ((offsets[r + 1] - offsets[r] + 63) / 64);
    const int64_t words = (offsets[row + 1] - offsets[row] + 63) / 64;
    for (int64_t c = 0; c < offsets[row + 1] - offsets[row]; ++c)
      if (keys[offsets[row] + c] == j) return (seen[word + i % shape.block * words + c / 64] >> (c % 64) & 1) != 0;
    return false;
  }
};

struct PanelCase {
  FlashCase flash;
  DrawnPanels panels;
  PanelParams params() const { return {flash.params(), panels.view()}; }
};

FlashShape shape_of(int64_t queries, int64_t keys, int64_t q_heads = 2, int64_t k_heads = 1) {
  FlashShape shape;
  shape.queries = queries, shape.keys = keys, shape.q_heads = q_heads, shape.k_heads = shape.v_heads = k_heads;
  return shape;
}

void expect_matches(PanelCase& made, double forward, double backward) {
  PanelCase expected = made;
  panel_attention(made.params());
  reference::panel_attention(expected.params());
  reference::panel_attention_backward(expected.params(), expected.flash.grads());
  panel_attention_backward(made.params(), made.flash.grads());
  made.flash.check_guards();
  for (const bool grads : {false, true}) {
    auto got = made.flash.outputs(grads), want = expected.flash.outputs(grads);
    for (size_t t = 0; t < got.size(); ++t)
      EXPECT_LE(relative_error(*got[t].second, *want[t].second), grads ? backward : forward) << got[t].first;
  }
}

TEST(PanelOrder, CoversWhatIsSeen) {
  HEED_SEED(random, 20250601);
  for (int round = 0; round < 30; ++round) {
    const int64_t block = 1 + static_cast<int64_t>(random() % 100);
    const FlashShape shape =
        shape_of(1 + static_cast<int64_t>(random() % 250), 1 + static_cast<int64_t>(random() % 400));
    const DrawnPanels panels(random, shape, 1, block, round % 3 == 0 ? 0.9 : 0.3, round % 4 == 0 ? 0.01 : 0.6);
    const PanelOrder order(panels.view(), 0, 0, panels.shape.blocks(), panels.seen.data());
    constexpr int64_t kWidth = 48;
    for (int64_t t = 0; t < panels.shape.blocks(); ++t)
      for (int64_t i0 = t * block; i0 < std::min((t + 1) * block, shape.queries); i0 += kWidth) {
        const int64_t rows = std::min({kWidth, (t + 1) * block - i0, shape.queries - i0});
        std::vector<std::pair<int64_t, int64_t>> got, want;
        for (const auto* run = order.begin_runs(i0); run != order.end_runs(i0); ++run)
          for (int64_t j0 = run->begin; j0 < run->end; j0 += 80) {  // no multiple of a word
            const int64_t j1 = std::min(j0 + 80, run->end);
            std::vector<uint32_t> bits(4 * kWidth, 0xFFFFFFFFu);
            const TileCover cover = order.cover(0, i0, rows, j0, j1, kWidth, bits.data());
            ASSERT_TRUE(cover.empty() || (j0 <= cover.begin && cover.end <= j1));
            for (int64_t j = cover.begin; j < cover.end; ++j)
              for (int64_t r = 0; r < rows; ++r)
                if (!cover.masked || (bits[(j - cover.begin) / 32 * kWidth + r] >> ((j - cover.begin) % 32) & 1) != 0)
                  got.emplace_back(order.query_rows()[i0 + r], order.key_rows()[j]);
          }
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t j = 0; j < shape.keys; ++j)
            if (panels.sees(0, 0, i0 + r, j)) want.emplace_back(i0 + r, j);
        std::sort(got.begin(), got.end());
        ASSERT_EQ(got, want) << "queries from " << i0;
      }
  }
}

class PanelsOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, PanelsOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(PanelsOnIsa, MatchesReferenceOverRandomPanels) {
  HEED_SEED(random, 20250602);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 36; ++round) {
    FlashShape shape = shape_of(1 + below(170), 20 + below(round % 3 == 0 ? 500 : 60));
    shape.batch = 1 + below(2), shape.k_heads = 1 + below(2), shape.v_heads = round % 4 == 0 ? 1 : shape.k_heads;
    shape.q_heads = shape.k_heads * (1 + below(3)), shape.d = 1 + below(70), shape.dv = 1 + below(40);
    const int64_t choosers[] = {1, shape.k_heads, shape.q_heads}, block = 1 + below(200);
    FlashFeatures features;
    features.softcap = round % 6 == 3 ? 2 : 0, features.logit_size = round % 3 == 0 ? 9 : 1;
    features.d_lse = round % 2 == 0;
    SCOPED_TRACE(fmt::format("B {} Hq {} Hk {} Hv {} N {} M {} D {} Dv {} choosers {} block {}", shape.batch,
                             shape.q_heads, shape.k_heads, shape.v_heads, shape.queries, shape.keys, shape.d, shape.dv,
                             choosers[round % 3], block));
    PanelCase made{
        FlashCase(shape, features, DType::f32, random(), layouts[round % 4]),
        DrawnPanels(random, shape, choosers[round % 3], block, round % 5 == 0 ? 1 : 0.4, round % 7 == 0 ? 1 : 0.5)};
    expect_matches(made, 1e-5, 1e-4);
  }
}

TEST_P(PanelsOnIsa, SmallFloatsMatchReference) {
  HEED_SEED(random, 20250603);
  // The rounding of the inputs is shared; the output, and in the backward the weights' products, are rounded once.
  for (const auto& [dtype, unit] : {std::pair{DType::bf16, std::ldexp(1, -8)}, {DType::f16, std::ldexp(1, -11)}}) {
    FlashShape shape = shape_of(130, 170, 4, 2);
    shape.d = 40, shape.dv = 24;
    PanelCase made{FlashCase(shape, {}, dtype, random()), DrawnPanels(random, shape, 4, 48, 0.5, 0.5)};
    expect_matches(made, 2 * unit, 4 * unit);
  }
}

/// More gathered keys than the backward buffers at once, and several parts of it.
TEST_P(PanelsOnIsa, LongCallsMatchReference) {
  HEED_SEED(random, 20250604);
  FlashShape shape = shape_of(900, 1400, 2, 1);
  PanelCase made{FlashCase(shape, {}, DType::f32, random()), DrawnPanels(random, shape, 2, 9, 0.7, 0.2)};
  ASSERT_GT(made.panels.keys.size(), size_t{2} << 16);
  expect_matches(made, 1e-5, 1e-4);
}

TEST(PanelAttention, AllKeysAreDense) {
  HEED_SEED(random, 20250605);
  const FlashShape shape = shape_of(75, 130, 4, 2);
  PanelCase made{FlashCase(shape, {}, DType::f32, random()), DrawnPanels(random, shape, 2, 75, 1, 1)};
  std::fill(made.panels.seen.begin(), made.panels.seen.end(), ~uint64_t{0});
  FlashCase dense = made.flash;
  panel_attention(made.params());
  flash_forward(dense.params());
  EXPECT_LE(relative_error(made.flash.out, dense.out), 1e-6);
  EXPECT_LE(relative_error(made.flash.lse, dense.lse), 1e-6);
}

TEST(PanelAttention, OneSeenKeyReturnsItsValue) {
  FlashShape shape = shape_of(5, 9, 1, 1);
  PanelCase made{FlashCase(shape, {}, DType::f32, 3),
                 DrawnPanels(*std::make_unique<std::mt19937_64>(1), shape, 1, 2, 0, 0)};
  DrawnPanels& panels = made.panels;
  panels.offsets = {0, 3, 5, 5}, panels.keys = {1, 4, 8, 0, 2}, panels.seen = {0b001, 0b100, 0b10, 0b00};
  panel_attention(made.params());
  const int64_t seen[] = {1, 8, 2, -1, -1};
  for (int64_t i = 0; i < 5; ++i)
    for (int64_t d = 0; d < shape.dv; ++d)
      EXPECT_FLOAT_EQ(made.flash.out.at(0, 0, i, d), seen[i] < 0 ? 0 : made.flash.v.at(0, 0, seen[i], d));
  EXPECT_EQ(made.flash.lse.at(0, 0, 3, 0), -INFINITY);
  EXPECT_EQ(visible_pairs(panels.view()), 3);
}

TEST(PanelAttention, NaNReachesExactlyTheQueriesThatSeeIt) {
  HEED_SEED(random, 20250606);
  const FlashShape shape = shape_of(100, 90);
  const PanelCase made{FlashCase(shape, {}, DType::f32, random()), DrawnPanels(random, shape, 2, 33, 0.6, 0.5)};
  for (const bool key : {true, false}) {
    PanelCase bad = made;
    (key ? bad.flash.k : bad.flash.v).set(0, 0, 41, 3, NAN);
    panel_attention(bad.params());
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t i = 0; i < 100; ++i)
        EXPECT_EQ(std::isnan(bad.flash.out.at(0, h, i, 3)), made.panels.sees(0, h, i, 41)) << "query " << i;
  }
}

TEST(PanelAttention, ThreadsChangeNoBit) {
  HEED_SEED(random, 20250607);
  const FlashShape shape = shape_of(700, 300, 4, 2);
  PanelCase one{FlashCase(shape, {}, DType::f32, random()), DrawnPanels(random, shape, 4, 48, 0.6, 0.5)};
  PanelCase many = one;
  const int before = num_threads();
  set_num_threads(1);
  panel_attention(one.params()), panel_attention_backward(one.params(), one.flash.grads());
  set_num_threads(3);
  panel_attention(many.params()), panel_attention_backward(many.params(), many.flash.grads());
  set_num_threads(before);
  for (const bool grads : {false, true}) {
    auto a = one.flash.outputs(grads), b = many.flash.outputs(grads);
    for (size_t t = 0; t < a.size(); ++t) EXPECT_TRUE(a[t].second->same_bits(*b[t].second)) << a[t].first;
  }
}

TEST(PanelAttention, SaysWhatDoesNotFit) {
  const auto message = [](auto&& spoil) -> std::string {
    std::mt19937_64 random(1);
    const FlashShape shape = shape_of(20, 30, 4, 2);
    PanelCase made{FlashCase(shape, {}, DType::f32, 1), DrawnPanels(random, shape, 2, 8, 1, 1)};
    PanelParams p = made.params();
    spoil(made, p);
    try {
      panel_attention(p);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message([](PanelCase&, PanelParams&) {}), "");
  EXPECT_NE(message([](PanelCase&, PanelParams& p) { p.panels.choosers = 3; }).find("3 choosers for 4 query heads"),
            std::string::npos);
  EXPECT_NE(message([](PanelCase&, PanelParams& p) { p.panels.queries = 21; }).find("21 queries; 20 are accepted"),
            std::string::npos);
  EXPECT_NE(message([](PanelCase& made, PanelParams&) { made.panels.keys[1] = 30; }).find("key 30 of list row 0"),
            std::string::npos);
  EXPECT_NE(message([](PanelCase& made, PanelParams&) { made.panels.keys[1] = 0; }).find("ascending"),
            std::string::npos);
  EXPECT_NE(message([](PanelCase&, PanelParams& p) { p.attention.mask = Causal{}; }).find("together with a mask"),
            std::string::npos);
}

}  // namespace
}  // namespace heed::testing::panel_attention_test
