#include "heed/kernels/attn_stats.h"

#include <gtest/gtest.h>

#include <numeric>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"

namespace heed::testing::attn_stats_test {
namespace {

using namespace kernels;
using Kind = Normalizer::Kind;

constexpr double kTolerance = 2e-5;

/// Every functional of one call.
struct Stats {
  Stats(const FlashCase& c, int64_t segments, const std::vector<int32_t>& of_key) : of_key_(&of_key) {
    const auto s = c.shape();
    const DType type = c.q.view().dtype == DType::f64 ? DType::f64 : DType::f32;
    column_sum = Tensor(type, {s.batch, s.q_heads, 1, s.keys}, Layout::sliced);
    diagonal_sum = Tensor(type, {s.batch, s.q_heads, 1, s.keys});
    entropy = Tensor(type, {s.batch, s.q_heads, s.queries, 1});
    distance = Tensor(type, {s.batch, s.q_heads, s.queries, 1});
    max_weight = Tensor(type, {s.batch, s.q_heads, s.queries, 1});
    segment_mass = Tensor(type, {s.batch, s.q_heads, s.queries, segments}, Layout::heads_last);
  }
  AttnStats views() const {
    AttnStats stats;
    stats.column_sum = column_sum, stats.diagonal_sum = diagonal_sum, stats.entropy = entropy,
    stats.distance = distance, stats.max_weight = max_weight;
    stats.segment_mass = segment_mass, stats.segments = of_key_->data();
    return stats;
  }
  std::vector<std::pair<const char*, Tensor*>> all() {
    return {{"column_sum", &column_sum}, {"diagonal_sum", &diagonal_sum}, {"entropy", &entropy},
            {"distance", &distance},     {"max_weight", &max_weight},     {"segment_mass", &segment_mass}};
  }
  Tensor column_sum, diagonal_sum, entropy, distance, max_weight, segment_mass;

 private:
  const std::vector<int32_t>* of_key_;
};

std::vector<int32_t> random_segments(std::mt19937_64& random, int64_t keys, int32_t segments) {
  std::vector<int32_t> of_key(keys);
  int32_t now = 0;
  for (int32_t& segment : of_key) {
    if (random() % 3 == 0) now = static_cast<int32_t>(random() % static_cast<uint64_t>(segments + 1)) - 1;
    segment = now;
  }
  return of_key;
}

struct Drawn {
  FlashShape shape;
  FlashFeatures features;
  DType dtype;
  Layout layout;
};

Drawn random_case(std::mt19937_64& random) {
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const auto chance = [&](int64_t of) { return below(of) == 0; };
  const DType types[] = {DType::f32, DType::f32, DType::f16, DType::bf16};
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  const int64_t sizes[] = {1, 8, 40, 64};
  Drawn r{{}, {}, types[below(4)], layouts[below(4)]};
  r.shape.batch = 1 + below(2), r.shape.k_heads = r.shape.v_heads = 1 + below(2);
  r.shape.q_heads = r.shape.k_heads * (1 + below(3));
  r.shape.queries = 1 + below(70), r.shape.keys = 1 + below(250), r.shape.d = sizes[below(4)], r.shape.dv = 8;
  const Mask masks[] = {Mask(), Causal{}, Causal{} & (Window{20} | SinkTokens{3}), Causal{} & Dilation{3},
                        Window{0, 70}};
  r.features.mask = masks[below(5)];
  r.features.softcap = chance(3) ? 3 : 0, r.features.alibi = chance(3), r.features.temperature = chance(3);
  r.features.sink = chance(3), r.features.lengths = chance(3), r.features.head_maps = chance(4);
  if (chance(3)) r.features.bias = std::array<int64_t, 3>{chance(2), 0, chance(2)};
  if (!r.features.sink && chance(5)) r.features.kind = Kind::clipped_softmax, r.features.gamma = -0.1;
  if (chance(4)) {
    r.features.packed_q = {1 + below(9), 0, 20, 5}, r.features.packed_k = {3, 7, 1 + below(60), 0};
    r.features.lengths = false;
  }
  return r;
}

/// A weight's logarithm is off by float's rounding of the logit, here at most 2^-20, which moves an entropy by as much
/// even where it is 0. So a row's sums may differ by that beside the relative error.
void expect_near(const Tensor& got, const Tensor& want, const char* name) {
  double difference = 0, norm = 0, count = 0;
  EXPECT_LT(relative_error(got, want), std::numeric_limits<double>::infinity()) << name;
  want.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
    const double x = got.at(b, h, n, d), y = want.at(b, h, n, d);
    if (!std::isfinite(y)) return;
    difference += (x - y) * (x - y), norm += y * y, count += 1;
  });
  EXPECT_LE(std::sqrt(difference), kTolerance * std::sqrt(norm) + std::ldexp(std::sqrt(count), -20)) << name;
}

class StatsOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, StatsOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(StatsOnEveryIsa, RandomCallsEqualTheReference) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    HEED_SEED(random, seed);
    const Drawn drawn = random_case(random);
    FlashCase c(drawn.shape, drawn.features, drawn.dtype, seed, drawn.layout);
    const std::vector<int32_t> of_key = random_segments(random, c.shape().keys, 4);
    flash_forward(c.params());
    Stats want(c, 4, of_key), got(c, 4, of_key);
    AttnStats wanted = want.views(), asked = got.views();
    const auto rows = static_cast<uint64_t>(c.shape().queries + 1);
    const int64_t a = static_cast<int64_t>(random() % rows), b = static_cast<int64_t>(random() % rows);
    wanted.row_begin = asked.row_begin = std::min(a, b), wanted.row_end = asked.row_end = std::max(a, b);
    FlashParams p = c.params();
    p.v = {}, p.out = {};
    kernels::reference::attn_stats(p, wanted);
    attn_stats(p, asked);
    for (size_t t = 0; t < want.all().size(); ++t) {
      const auto [name, tensor] = got.all()[t];
      expect_near(*tensor, *want.all()[t].second, name);
      tensor->check_guards(name);
    }
    // Each output alone is what it is beside the others.
    AttnStats alone;
    Tensor columns(DType::f32, got.column_sum.size(), Layout::sliced), diagonals(DType::f32, columns.size());
    alone.column_sum = columns, alone.diagonal_sum = diagonals, alone.row_begin = asked.row_begin,
    alone.row_end = asked.row_end;
    attn_stats(p, alone);
    EXPECT_LE(relative_error(columns, got.column_sum), 1e-6);
    EXPECT_LE(relative_error(diagonals, got.diagonal_sum), 1e-6);
    if (HasFailure()) break;
  }
}

// The definitions, from weights that are written out.
TEST(AttnStats, ReferenceIsTheDefinition) {
  FlashFeatures features;
  features.mask = Causal{}, features.sink = true;
  FlashCase c({1, 2, 1, 1, 9, 14, 8, 8}, features, DType::f64, 3);
  std::vector<int32_t> of_key{0, 0, 1, -1, 1, 2, 2, 2, 0, 1, -1, 1, 2, 0};
  kernels::reference::flash_forward(c.params());
  Stats got(c, 3, of_key);
  attn_stats(c.params(), got.views());
  std::vector<int64_t> rows(9);
  std::iota(rows.begin(), rows.end(), 0);
  Tensor weights(DType::f64, {1, 2, 9, 14});
  attention_weights(c.params(), rows.data(), 9, weights);
  for (int64_t h = 0; h < 2; ++h) {
    std::vector<double> columns(14), diagonals(14);
    for (int64_t i = 0; i < 9; ++i) {
      const double rest = std::exp(c.sink.at(0, h, 0) - c.lse.at(0, h, i));
      double total = rest, entropy = -rest * std::log(rest), distance = 0, largest = 0, mass[3] = {};
      for (int64_t j = 0; j < 14; ++j) {
        const double w = weights.at(0, h, i, j);
        total += w, columns[j] += w, largest = std::max(largest, w), distance += w * std::abs(i + 5 - j);
        if (j <= i + 5) diagonals[i + 5 - j] += w;
        if (w > 0) entropy -= w * std::log(w);
        if (of_key[j] >= 0) mass[of_key[j]] += w;
        EXPECT_EQ(w > 0, j <= i + 5);
      }
      EXPECT_NEAR(total, 1, 1e-12);
      EXPECT_NEAR(got.entropy.at(0, h, i), entropy, 1e-12);
      EXPECT_NEAR(got.distance.at(0, h, i), distance, 1e-12);
      EXPECT_NEAR(got.max_weight.at(0, h, i), largest, 1e-12);
      for (int64_t s = 0; s < 3; ++s) EXPECT_NEAR(got.segment_mass.at(0, h, i, s), mass[s], 1e-12);
    }
    for (int64_t j = 0; j < 14; ++j) {
      EXPECT_NEAR(got.column_sum.at(0, h, 0, j), columns[j], 1e-12);
      EXPECT_NEAR(got.diagonal_sum.at(0, h, 0, j), diagonals[j], 1e-12);
    }
  }
}

// The estimate of vertical and slash lines: the last rows of a causal prompt, without a forward of the others.
TEST(AttnStats, LinesOfTheLastRowsSumToTheirNumber) {
  FlashFeatures features;
  features.mask = Causal{};
  for (const int64_t last : {1, 64, 128}) {
    FlashCase whole({2, 4, 2, 2, 700, 700, 32, 32}, features, DType::bf16, 8);
    flash_forward(whole.params());
    FlashParams p = whole.params();
    Tensor lse(DType::f32, {2, 4, last, 1}), columns(DType::f32, {2, 4, 1, 700}), diagonals(DType::f32, columns.size());
    p.q.data = static_cast<char*>(p.q.data) + (700 - last) * p.q.stride[2] * 2;
    p.q.size[2] = last, p.v = {}, p.out = {}, p.lse = lse;
    attention_lse(p);
    lse.each([&](int64_t b, int64_t h, int64_t i, int64_t) {
      EXPECT_NEAR(lse.at(b, h, i), whole.lse.at(b, h, 700 - last + i), 1e-5);
    });
    AttnStats stats;
    stats.column_sum = columns, stats.diagonal_sum = diagonals;
    attn_stats(p, stats);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t h = 0; h < 4; ++h) {
        double column_mass = 0, diagonal_mass = 0;
        for (int64_t j = 0; j < 700; ++j) {
          column_mass += columns.at(b, h, 0, j), diagonal_mass += diagonals.at(b, h, 0, j);
        }
        EXPECT_NEAR(column_mass, static_cast<double>(last), kTolerance * static_cast<double>(last));
        EXPECT_NEAR(diagonal_mass, static_cast<double>(last), kTolerance * static_cast<double>(last));
        EXPECT_GT(diagonals.at(b, h, 0, 0), 0);
      }
    }
  }
}

TEST(AttnStats, UniformAttentionHasKnownAnswers) {
  FlashCase c({1, 1, 1, 1, 5, 1000, 8, 8}, {}, DType::f32, 1);
  c.q.fill([] { return 0.0; });
  flash_forward(c.params());
  std::vector<int32_t> of_key(1000, 0);
  std::fill(of_key.begin() + 250, of_key.end(), 1);
  Stats got(c, 2, of_key);
  attn_stats(c.params(), got.views());
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(got.entropy.at(0, 0, i), std::log(1000.0), 1e-4);
    EXPECT_NEAR(got.segment_mass.at(0, 0, i, 0), 0.25, 1e-6);
    EXPECT_NEAR(got.segment_mass.at(0, 0, i, 1), 0.75, 1e-6);
    EXPECT_NEAR(got.max_weight.at(0, 0, i), 1e-3, 1e-8);
    const double own = 995 + static_cast<double>(i), beyond = 999 - own;
    EXPECT_NEAR(got.distance.at(0, 0, i), (own * (own + 1) + beyond * (beyond + 1)) / 2000, 1e-2);
  }
  for (int64_t j = 0; j < 1000; ++j) EXPECT_NEAR(got.column_sum.at(0, 0, 0, j), 5e-3, 1e-8);
}

// The divergence of attention over a subset S from attention over all is -ln of the mass of S.
TEST(AttnStats, MassOfASubsetIsTheRatioOfItsSums) {
  FlashFeatures features;
  features.alibi = true;
  FlashCase c({2, 2, 1, 1, 30, 100, 16, 16}, features, DType::f32, 5);
  flash_forward(c.params());
  std::vector<int32_t> of_key(100, -1);
  for (int64_t j = 0; j < 40; ++j) of_key[j] = 0;
  Stats got(c, 1, of_key);
  attn_stats(c.params(), got.views());
  FlashParams subset = c.params();
  subset.mask = SinkTokens{40};
  Tensor out(DType::f32, c.out.size()), lse(DType::f32, c.lse.size());
  subset.out = out, subset.lse = lse;
  flash_forward(subset);
  lse.each([&](int64_t b, int64_t h, int64_t i, int64_t) {
    const double mass = got.segment_mass.at(b, h, i, 0);
    EXPECT_NEAR(mass, std::exp(lse.at(b, h, i) - c.lse.at(b, h, i)), 2e-6);
    double divergence = 0;
    for (int64_t j = 0; j < 40; ++j) {
      double s = 0;
      for (int64_t d = 0; d < 16; ++d) s += c.q.at(b, h, i, d) * c.k.at(b, 0, j, d) / 4;
      s -= 0.5 / static_cast<double>(h + 1) * std::abs(static_cast<double>(i + 70 - j));
      const double w = std::exp(s - lse.at(b, h, i));
      divergence += w * (lse.at(b, h, i) * -1 + c.lse.at(b, h, i));
    }
    EXPECT_NEAR(divergence, -std::log(mass), 1e-4 * (1 + divergence));
  });
}

TEST(AttnStats, ThreadsDoNotChangeABit) {
  FlashFeatures features;
  features.mask = Causal{};
  FlashCase c({1, 3, 1, 1, 700, 700, 16, 8}, features, DType::f32, 8);
  flash_forward(c.params());
  const std::vector<int32_t> of_key(700, 0);
  Stats one(c, 1, of_key), two(c, 1, of_key);
  set_num_threads(1);
  attn_stats(c.params(), one.views());
  set_num_threads(2);
  attn_stats(c.params(), two.views());
  for (size_t t = 0; t < one.all().size(); ++t) EXPECT_TRUE(one.all()[t].second->same_bits(*two.all()[t].second));
}

TEST(AttnStats, RowsThatSeeNothingAreZero) {
  FlashFeatures features;
  features.mask = Causal{};
  FlashCase c({1, 1, 1, 1, 20, 5, 8, 8}, features, DType::f32, 2);
  c.k.set(0, 0, 4, 0, NAN);  // only the last row sees it
  flash_forward(c.params());
  const std::vector<int32_t> of_key(5, 0);
  Stats got(c, 1, of_key);
  attn_stats(c.params(), got.views());
  for (int64_t i = 0; i < 15; ++i) {
    for (auto [name, tensor] :
         {std::pair{"entropy", &got.entropy}, {"distance", &got.distance}, {"max", &got.max_weight}})
      EXPECT_EQ(tensor->at(0, 0, i), 0) << name;
  }
  for (int64_t i = 15; i < 19; ++i) EXPECT_NEAR(got.segment_mass.at(0, 0, i, 0), 1, 1e-5);
  EXPECT_TRUE(std::isnan(got.entropy.at(0, 0, 19)));
  EXPECT_TRUE(std::isnan(got.max_weight.at(0, 0, 19)));
}

TEST(AttnStats, BlockListsHideWhatTheyLeaveOut) {
  const int64_t offsets[] = {0, 1, 3, 4, 6};
  const int32_t columns[] = {1, 0, 3, 2, 0, 1};
  BlockList list{offsets, columns, 1, 1, 4, 4, 16, 32};
  FlashCase c({1, 2, 1, 1, 60, 100, 16, 8}, {}, DType::f32, 4);
  c.blocks = &list;
  flash_forward(c.params());
  std::vector<int32_t> of_key(100);
  for (int64_t j = 0; j < 100; ++j) of_key[j] = static_cast<int32_t>(j / 32);
  Stats want(c, 4, of_key), got(c, 4, of_key);
  kernels::reference::attn_stats(c.params(), want.views());
  attn_stats(c.params(), got.views());
  for (size_t t = 0; t < want.all().size(); ++t)
    EXPECT_LE(relative_error(*got.all()[t].second, *want.all()[t].second), kTolerance) << got.all()[t].first;
  EXPECT_EQ(got.segment_mass.at(0, 0, 0, 0), 0);
  EXPECT_NEAR(got.segment_mass.at(0, 0, 0, 1), 1, 1e-5);
}

TEST(AttnStats, BadInputNamesTheValue) {
  FlashCase c({1, 1, 1, 1, 4, 6, 8, 8}, {}, DType::f32, 1);
  flash_forward(c.params());
  std::vector<int32_t> of_key(6, 2);
  const auto message = [&](const std::function<void(FlashParams&, AttnStats&)>& spoil) -> std::string {
    Stats got(c, 3, of_key);
    FlashParams p = c.params();
    AttnStats stats = got.views();
    spoil(p, stats);
    try {
      attn_stats(p, stats);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([](FlashParams&, AttnStats&) {}), "accepted");
  EXPECT_NE(message([](FlashParams& p, AttnStats&) { p.lse = {}; }).find("lse"), std::string::npos);
  EXPECT_NE(message([](FlashParams& p, AttnStats&) { p.normalizer.kind = Kind::sigmoid, p.lse = {}; }).find("sigmoid"),
            std::string::npos);
  EXPECT_NE(message([](FlashParams&, AttnStats& s) { s.row_end = 9; }).find("0 to 9"), std::string::npos);
  EXPECT_NE(message([](FlashParams&, AttnStats& s) { s.segment_mass.size[3] = 2; }).find("segment 2 of key 0"),
            std::string::npos);
  EXPECT_NE(message([](FlashParams&, AttnStats& s) { s.entropy.size[2] = 5; }).find("entropy has shape [1, 1, 5, 1]"),
            std::string::npos);
}

}  // namespace
}  // namespace heed::testing::attn_stats_test
