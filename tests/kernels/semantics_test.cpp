// docs/semantics.md, a golden test for each section: expected values are worked out by hand or in plain double here,
// and asked of the reference and of every instruction set's engine alike.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "heed/error.h"
#include "heed/kernels/flash.h"
#include "heed/kernels/partial.h"
#include "heed/kernels/runtime.h"
#include "kernels/philox.h"
#include "support/tensor.h"

namespace heed::testing::semantics_test {
namespace {

using namespace kernels;
using Kind = Normalizer::Kind;

constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

class Semantics : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "reference") {
      set_use_reference(true);
    } else {
      set_isa(GetParam());
    }
  }
  void TearDown() override {
    set_use_reference(false);
    set_isa("");
  }
};

std::vector<std::string> implementations() {
  std::vector<std::string> names = supported_isas();
  names.push_back("reference");
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, Semantics, ::testing::ValuesIn(implementations()),
                         [](const auto& info) { return info.param; });

Tensor tensor(std::array<int64_t, 4> size, const std::vector<double>& values) {
  Tensor t(DType::f32, size);
  size_t next = 0;
  t.fill([&] { return values[next++ % values.size()]; });
  return t;
}

/// q, k of one dimension with scale 1, so that the logit of (i, j) is q[i] * k[j]; v of one dimension.
struct Line {
  Tensor q, k, v, out, lse;
  FlashParams p;
  Line(const std::vector<double>& queries, const std::vector<double>& keys, const std::vector<double>& values)
      : q(tensor({1, 1, static_cast<int64_t>(queries.size()), 1}, queries)),
        k(tensor({1, 1, static_cast<int64_t>(keys.size()), 1}, keys)),
        v(tensor({1, 1, static_cast<int64_t>(values.size()), 1}, values)),
        out(DType::f32, q.size()),
        lse(DType::f32, q.size()) {
    p.q = q, p.k = k, p.v = v, p.out = out, p.lse = lse, p.scale = 1;
  }
  Line& run() {
    flash_forward(p);
    return *this;
  }
  double o(int64_t i = 0) const { return out.at(0, 0, i); }
  double l(int64_t i = 0) const { return lse.at(0, 0, i); }
};

constexpr double kClose = 2e-6;

TEST_P(Semantics, FormulaAppliesItsTermsInOrder) {
  // s = 0.5 * <q, k>, then cap, bias and ALiBi, temperature, softmax, multiplier.
  const double q[] = {1.5, -2}, k[][2] = {{1, 2}, {-3, 0.5}, {2, -1}}, v[] = {1, 10, 100};
  const double bias[] = {0.3, -0.2, 0.1}, multiplier[] = {1, 2, -0.5};
  const double scale = 0.5, cap = 2, slope = 0.25, temperature = 0.7;
  Tensor tq = tensor({1, 1, 1, 2}, {1.5, -2}), tk = tensor({1, 1, 3, 2}, {1, 2, -3, 0.5, 2, -1}),
         tv = tensor({1, 1, 3, 1}, {1, 10, 100});
  Tensor out(DType::f32, {1, 1, 1, 1}), lse(DType::f32, {1, 1, 1, 1}), tb = tensor({1, 1, 1, 3}, {0.3, -0.2, 0.1});
  Tensor tm = tensor({1, 1, 1, 3}, {1, 2, -0.5}), tt = tensor({1, 1, 1, 1}, {0.7});
  const float slopes[] = {0.25f};
  FlashParams p;
  p.q = tq, p.k = tk, p.v = tv, p.out = out, p.lse = lse, p.scale = scale;
  p.scores.softcap = cap, p.scores.bias = tb, p.scores.alibi_slopes = slopes, p.scores.temperature = tt,
  p.scores.multiplier = tm;
  flash_forward(p);
  double total = 0, weighted = 0;
  for (int j = 0; j < 3; ++j) {
    double s = scale * (q[0] * k[j][0] + q[1] * k[j][1]);
    s = cap * std::tanh(s / cap);
    s += bias[j] - slope * std::fabs(2 - j);  // i' = 0 + 3 - 1
    total += std::exp(s / temperature), weighted += std::exp(s / temperature) * multiplier[j] * v[j];
  }
  EXPECT_NEAR(out.at(0, 0, 0), weighted / total, 1e-4);
  EXPECT_NEAR(lse.at(0, 0, 0), std::log(total), kClose);
}

TEST_P(Semantics, ScaleZeroIsTheInverseRootOfTheHeadSize) {
  Tensor q = tensor({1, 1, 1, 16}, {1}), k = tensor({1, 1, 1, 16}, {0.5}), v = tensor({1, 1, 1, 1}, {3});
  Tensor out(DType::f32, {1, 1, 1, 1}), lse(DType::f32, {1, 1, 1, 1});
  FlashParams p;
  p.q = q, p.k = k, p.v = v, p.out = out, p.lse = lse;
  flash_forward(p);
  EXPECT_NEAR(lse.at(0, 0, 0), 16 * 0.5 / 4, kClose);
  EXPECT_NEAR(out.at(0, 0, 0), 3, kClose);
}

// Equal logits make the output the mean of the visible values: with v = 2^j it says which keys are seen.
std::vector<int> seen_by(Mask mask, int queries, int keys, int row) {
  std::vector<double> powers;
  for (int j = 0; j < keys; ++j) powers.push_back(std::pow(2, j));
  Line line(std::vector<double>(queries, 0), std::vector<double>(keys, 0), powers);
  line.p.mask = mask;
  line.run();
  std::vector<int> seen;
  const int64_t sum = std::llround(line.o(row) * std::exp(line.l(row)));
  for (int j = 0; j < keys; ++j) {
    if (sum >> j & 1) seen.push_back(j);
  }
  return seen;
}
using Keys = std::vector<int>;

TEST_P(Semantics, CausalEndsAtTheLastKey) {
  EXPECT_EQ(seen_by(Causal{}, 2, 5, 0), (Keys{0, 1, 2, 3}));
  EXPECT_EQ(seen_by(Causal{}, 2, 5, 1), (Keys{0, 1, 2, 3, 4}));
  EXPECT_EQ(seen_by(Causal{}, 5, 2, 2), (Keys{}));
  EXPECT_EQ(seen_by(Causal{}, 5, 2, 3), (Keys{0}));
  EXPECT_EQ(seen_by(Causal{Alignment::top_left}, 2, 5, 1), (Keys{0, 1}));
  EXPECT_EQ(seen_by(Causal{Alignment::top_left}, 5, 2, 4), (Keys{0, 1}));
}

TEST_P(Semantics, WindowsCountTheirOwnKey) {
  EXPECT_EQ(seen_by(Window{1}, 4, 4, 2), (Keys{2}));
  EXPECT_EQ(seen_by(Window{3}, 4, 6, 3), (Keys{3, 4, 5}));
  EXPECT_EQ(seen_by(Window(1, 2), 6, 6, 2), (Keys{1, 2, 3, 4}));
  EXPECT_EQ(seen_by(Causal{} & (Window{2} | SinkTokens{1}), 6, 6, 4), (Keys{0, 3, 4}));
  EXPECT_THROW(Window{0} & Causal{}, Error);
}

TEST_P(Semantics, AlibiUsesTheBottomRightPosition) {
  const float slopes[] = {0.5f};
  Line line({0, 0}, {0, 0, 0}, {1, 0, 0});
  line.p.scores.alibi_slopes = slopes, line.p.mask = Causal{Alignment::top_left};
  line.run();
  // Row 1: i' = 2, sees keys 0 and 1 at distances 2 and 1.
  EXPECT_NEAR(line.o(1), std::exp(-1.0) / (std::exp(-1.0) + std::exp(-0.5)), kClose);
}

TEST_P(Semantics, LengthsMakeASequencesOwnGeometry) {
  const int64_t q_lengths[] = {2}, k_lengths[] = {3};
  Line line({0, 0, 0}, {0, 0, 0, kNan}, {1, 2, 4, kNan});
  line.p.q_lengths = q_lengths, line.p.k_lengths = k_lengths, line.p.mask = Causal{};
  line.run();
  EXPECT_NEAR(line.o(0), 1.5, kClose);
  EXPECT_NEAR(line.o(1), 7.0 / 3, kClose);
  EXPECT_EQ(line.o(2), 0);
  EXPECT_EQ(line.l(2), -kInf);
}

TEST_P(Semantics, RowsThatSeeNothingAreZero) {
  Line line({1, 1, 1}, {1}, {5});
  line.p.mask = Causal{};
  line.run();
  EXPECT_EQ(line.o(0), 0);
  EXPECT_EQ(line.l(0), -kInf);
  EXPECT_NEAR(line.o(2), 5, kClose);

  Line none({1}, {}, {});
  none.run();
  EXPECT_EQ(none.o(), 0);
  EXPECT_EQ(none.l(), -kInf);

  Tensor sink = tensor({1, 1, 1, 1}, {0.75});
  Line sunk({1, 1}, {1}, {5});
  sunk.p.mask = Causal{}, sunk.p.normalizer.sink_logit = sink;
  sunk.run();
  EXPECT_EQ(sunk.o(0), 0);
  EXPECT_NEAR(sunk.l(0), 0.75, kClose);

  Line sigmoid({1, 1}, {1}, {5});
  sigmoid.p.mask = Causal{}, sigmoid.p.normalizer.kind = Kind::sigmoid, sigmoid.p.lse = {};
  sigmoid.run();
  EXPECT_EQ(sigmoid.o(0), 0);
  EXPECT_NEAR(sigmoid.o(1), 5 / (1 + std::exp(-1)), kClose);
}

TEST_P(Semantics, RowsThatSeeNothingHaveNoGradient) {
  for (bool with_sink : {false, true}) {
    Line line({1, 2, 3}, {0.5}, {5});
    Tensor sink = tensor({1, 1, 1, 1}, {0.25}), d_sink(DType::f32, {1, 1, 1, 1});
    Tensor d_out = tensor({1, 1, 3, 1}, {1, 1, 0}), d_lse = tensor({1, 1, 3, 1}, {0});
    Tensor d_q(DType::f32, line.q.size()), d_k(DType::f32, line.k.size()), d_v(DType::f32, line.v.size());
    line.p.mask = Causal{};
    FlashGrads g;
    g.d_out = d_out, g.d_lse = d_lse, g.d_q = d_q, g.d_k = d_k, g.d_v = d_v;
    if (with_sink) line.p.normalizer.sink_logit = sink, g.d_sink = d_sink;
    line.run();
    flash_backward(line.p, g);
    EXPECT_EQ(d_q.at(0, 0, 0), 0);
    EXPECT_EQ(d_q.at(0, 0, 1), 0);
    EXPECT_EQ(d_k.at(0, 0, 0), 0);  // only row 2 sees the key, and its d_out is 0
    EXPECT_EQ(d_v.at(0, 0, 0), 0);
    if (with_sink) {
      EXPECT_EQ(d_sink.at(0, 0, 0), 0);
    }
  }
}

TEST_P(Semantics, SinkTokensAreKeysAndSinkLogitsAreNot) {
  EXPECT_EQ(seen_by(Window{1} | SinkTokens{2}, 5, 5, 4), (Keys{0, 1, 4}));
  Tensor zero = tensor({1, 1, 1, 1}, {0}), none = tensor({1, 1, 1, 1}, {-kInf});
  Line off_by_one({1}, {0.5, -1}, {2, 3});
  off_by_one.p.normalizer.sink_logit = zero;
  off_by_one.run();
  const double a = std::exp(0.5), b = std::exp(-1);
  EXPECT_NEAR(off_by_one.o(), (2 * a + 3 * b) / (1 + a + b), kClose);
  EXPECT_NEAR(off_by_one.l(), std::log(1 + a + b), kClose);
  Line plain({1}, {0.5, -1}, {2, 3});
  plain.p.normalizer.sink_logit = none;
  plain.run();
  EXPECT_NEAR(plain.o(), (2 * a + 3 * b) / (a + b), kClose);
}

TEST_P(Semantics, NanAndInfReachTheRowsThatSeeThem) {
  for (double poison : {kNan, kInf}) {
    SCOPED_TRACE(poison);
    Line query({1, poison, 1}, {1, -1, 2}, {1, 2, 3});
    query.run();
    EXPECT_TRUE(std::isfinite(query.o(0)) && std::isfinite(query.o(2)));
    EXPECT_TRUE(std::isnan(query.o(1)));
    Line key({1, 1, 1}, {1, poison, 2}, {1, 2, 3});
    key.p.mask = Causal{};
    key.run();
    EXPECT_NEAR(key.o(0), 1, kClose);
    EXPECT_TRUE(std::isnan(key.o(1)) && std::isnan(key.o(2)));
    Line value({1, 1, 1}, {1, 1, 2}, {1, poison, 3});
    value.p.mask = Causal{};
    value.run();
    EXPECT_NEAR(value.o(0), 1, kClose);
    EXPECT_FALSE(std::isfinite(value.o(1)) || std::isfinite(value.o(2)));
  }
}

TEST_P(Semantics, AHiddenKeyNeverMattersToAGradient) {
  const int n = 70;
  std::vector<double> ones(n, 1), keys(n, 0.5), values(n, 2);
  keys[n - 1] = kNan, values[n - 2] = kNan;
  Line line(ones, keys, values);
  line.p.mask = Causal{};
  Tensor d_out = tensor({1, 1, n, 1}, ones), d_q(DType::f32, line.q.size()), d_k(DType::f32, line.k.size()),
         d_v(DType::f32, line.v.size());
  FlashGrads g;
  g.d_out = d_out, g.d_q = d_q, g.d_k = d_k, g.d_v = d_v;
  line.run();
  flash_backward(line.p, g);
  for (int i = 0; i < n - 2; ++i) EXPECT_TRUE(std::isfinite(d_q.at(0, 0, i))) << i;
  EXPECT_TRUE(std::isnan(d_q.at(0, 0, n - 1)));

  // A NaN query reaches the keys it sees only.
  ones[10] = kNan;
  Line query(ones, std::vector<double>(n, 0.5), std::vector<double>(n, 2));
  query.p.mask = Causal{};
  query.run();
  g.d_q = d_q;
  flash_backward(query.p, g);
  for (int j = 0; j < n; ++j) EXPECT_EQ(std::isnan(d_k.at(0, 0, j)), j <= 10) << j;
}

TEST_P(Semantics, VisibleInfinitiesFollowTheFormula) {
  Tensor bias = tensor({1, 1, 1, 3}, {0, -kInf, 0});
  Line line({1}, {1, 1, 1}, {1, 7, 3});
  line.p.scores.bias = bias;
  line.run();
  EXPECT_NEAR(line.o(), 2, kClose);
  Line poisoned({1}, {1, 1, 1}, {1, kNan, 3});  // 0 * NaN: the key is visible
  poisoned.p.scores.bias = bias;
  poisoned.run();
  EXPECT_TRUE(std::isnan(poisoned.o()));
  Tensor all = tensor({1, 1, 1, 3}, {-kInf});
  Line nothing({1}, {1, 1, 1}, {1, 7, 3});
  nothing.p.scores.bias = all;
  nothing.run();
  EXPECT_EQ(nothing.o(), 0);
  EXPECT_EQ(nothing.l(), -kInf);
  Line sigmoid({1}, {1, 1, 1}, {1, 7, 3});
  Tensor zero = tensor({1, 1, 1, 1}, {0});
  sigmoid.p.scores.bias = bias, sigmoid.p.lse = {};
  sigmoid.p.normalizer.kind = Kind::sigmoid, sigmoid.p.normalizer.sigmoid_bias = zero;
  EXPECT_NEAR(sigmoid.run().o(), 4 / (1 + std::exp(-1)), 2 * kClose);
  sigmoid.p.scores.bias = all;
  EXPECT_EQ(sigmoid.run().o(), 0);
  Tensor up = tensor({1, 1, 1, 3}, {0, kInf, 0});
  sigmoid.p.scores.bias = up;
  EXPECT_NEAR(sigmoid.run().o(), 4 / (1 + std::exp(-1)) + 7, 2 * kClose);
  Line above({1}, {1, 1, 1}, {1, 7, 3});
  above.p.scores.bias = up;
  above.run();
  EXPECT_TRUE(std::isnan(above.o()));
}

TEST_P(Semantics, ConsecutiveHeadsShareUnlessAMapSaysOtherwise) {
  Tensor q = tensor({1, 4, 1, 1}, {0}), k = tensor({1, 2, 1, 1}, {0}), v = tensor({1, 2, 1, 1}, {10, 20});
  Tensor out(DType::f32, {1, 4, 1, 1});
  FlashParams p;
  p.q = q, p.k = k, p.v = v, p.out = out;
  flash_forward(p);
  for (int h = 0; h < 4; ++h) EXPECT_NEAR(out.at(0, h, 0), h < 2 ? 10 : 20, 1e-5);
  const int32_t map[] = {1, 0, 1, 1};
  p.q_to_v_head = map;
  flash_forward(p);
  for (int h = 0; h < 4; ++h) EXPECT_NEAR(out.at(0, h, 0), h == 1 ? 10 : 20, 1e-5);
  Tensor three(DType::f32, {1, 3, 1, 1});
  p.q_to_v_head = nullptr, p.k = three;
  EXPECT_THROW(flash_forward(p), Error);
}

TEST_P(Semantics, PartialResultsMerge) {
  HEED_SEED(random, 5);
  Tensor q(DType::f32, {1, 1, 3, 4}), k(DType::f32, {1, 1, 10, 4}), v(DType::f32, {1, 1, 10, 2});
  q.normal(random), k.normal(random), v.normal(random);
  const auto part = [&](int64_t begin, int64_t end) {
    std::pair<Tensor, Tensor> result{Tensor(DType::f32, {1, 1, 3, 2}), Tensor(DType::f32, {1, 1, 3, 1})};
    FlashParams p;
    p.q = q, p.k = k, p.v = v, p.out = result.first, p.lse = result.second;
    p.k.data = static_cast<float*>(p.k.data) + begin * 4, p.v.data = static_cast<float*>(p.v.data) + begin * 2;
    p.k.size[2] = p.v.size[2] = end - begin;
    flash_forward(p);
    return result;
  };
  auto [out, lse] = part(0, 0);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 0}, {0, 3}, {3, 3}, {3, 10}}) {
    const auto [other, other_lse] = part(begin, end);
    for (int64_t i = 0; i < 3; ++i) {
      float o[2] = {static_cast<float>(out.at(0, 0, i, 0)), static_cast<float>(out.at(0, 0, i, 1))};
      const float b[2] = {static_cast<float>(other.at(0, 0, i, 0)), static_cast<float>(other.at(0, 0, i, 1))};
      float l = static_cast<float>(lse.at(0, 0, i));
      merge(o, l, b, static_cast<float>(other_lse.at(0, 0, i)), 2);
      out.set(0, 0, i, 0, o[0]), out.set(0, 0, i, 1, o[1]), lse.set(0, 0, i, 0, l);
    }
  }
  const auto [whole, whole_lse] = part(0, 10);
  EXPECT_LE(relative_error(out, whole), 1e-6);
  EXPECT_LE(relative_error(lse, whole_lse), 1e-6);
}

TEST_P(Semantics, SigmoidPartialsAdd) {
  Tensor bias = tensor({1, 1, 1, 1}, {-1.5});
  double sum = 0;
  for (int j = 0; j < 3; ++j) {
    Line one({0.7}, {1.0 * j - 1}, {2.0 + j});
    one.p.normalizer.kind = Kind::sigmoid, one.p.normalizer.sigmoid_bias = bias, one.p.lse = {};
    sum += one.run().o();
  }
  Line all({0.7}, {-1, 0, 1}, {2, 3, 4});
  all.p.normalizer.kind = Kind::sigmoid, all.p.normalizer.sigmoid_bias = bias, all.p.lse = {};
  EXPECT_NEAR(all.run().o(), sum, kClose);
}

TEST_P(Semantics, SigmoidBiasDefaultsToMinusLogOfTheKeys) {
  Line line({0}, {1, 2, 3, 4}, {1, 1, 1, 3});
  line.p.normalizer.kind = Kind::sigmoid, line.p.lse = {};
  EXPECT_NEAR(line.run().o(), 6.0 / 5, kClose);  // q = 0: every weight is 1 / (M + 1)
}

TEST_P(Semantics, ClippedSoftmaxCutsBothEnds) {
  // Four equal keys: p = 1/4, exactly 0 once gamma <= -1/3 with zeta = 1.
  Line line({0}, {0, 0, 0, 0}, {1, 2, 3, 4});
  line.p.normalizer.kind = Kind::clipped_softmax, line.p.normalizer.gamma = -0.34;
  EXPECT_EQ(line.run().o(), 0);
  EXPECT_NEAR(line.l(), std::log(4), kClose);
  line.p.normalizer.gamma = -0.1;
  EXPECT_NEAR(line.run().o(), 10 * (1.1 * 0.25 - 0.1), kClose);
  Line one({0}, {0}, {3});
  one.p.normalizer.kind = Kind::clipped_softmax, one.p.normalizer.zeta = 1.3;
  EXPECT_NEAR(one.run().o(), 3, kClose);
}

TEST_P(Semantics, DropoutIsAFunctionOfThePair) {
  constexpr double kProbability = 0.4;
  const uint64_t seed = 0x123456789ABCDEFull;
  const int n = 50, m = 70;
  Tensor q = tensor({2, 2, n, 1}, {0}), k = tensor({2, 2, m, 1}, {0}), v(DType::f32, {2, 2, m, m}),
         out(DType::f32, {2, 2, n, m});
  v.each([&](int64_t b, int64_t h, int64_t j, int64_t d) { v.set(b, h, j, d, j == d ? 1 : 0); });
  FlashParams p;
  p.q = q, p.k = k, p.v = v, p.out = out, p.dropout = {kProbability, seed};
  flash_forward(p);
  out.each([&](int64_t b, int64_t h, int64_t i, int64_t j) {
    const auto words = philox(seed, {static_cast<uint32_t>(i), static_cast<uint32_t>(j / 4), static_cast<uint32_t>(h),
                                     static_cast<uint32_t>(b)});
    const bool kept = words[j % 4] >= kProbability * 4294967296.0;
    ASSERT_NEAR(out.at(b, h, i, j), kept ? 1 / (m * (1 - kProbability)) : 0, 1e-7)
        << b << " " << h << " " << i << " " << j;
  });
}

TEST(Philox, GivesThePublishedWords) {
  EXPECT_EQ(philox(0, {0, 0, 0, 0}), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822ull, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

}  // namespace
}  // namespace heed::testing::semantics_test
