// The built-in scores and normalisers written as variants: the same results, forward and backward, on every instruction
// set.
#include <fmt/format.h>
#include <gtest/gtest.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/variant_test.cpp"
#include "heed/kernels/targets.h"

#include <hwy/foreach_target.h>

#include "heed/kernels/variant-inl.h"
#include "kernels/cpu/exp-inl.h"

#ifndef HEED_VARIANT_TEST_PARAMETERS
#define HEED_VARIANT_TEST_PARAMETERS
struct VariantParameters {
  float cap, slope, bias, gamma, zeta;
  int32_t window;
};
#endif

HWY_BEFORE_NAMESPACE();
namespace heed::testing::HWY_NAMESPACE {
using namespace kernels::HWY_NAMESPACE;

/// Soft cap, ALiBi with one slope, a window, and a multiplier that depends on the pair's distance.
struct Scored : VariantBase<VariantParameters> {
  Vector saturated(Vector s) const { return tanh_of(hn::Mul(s, hn::Set(Lanes(), 1 / parameters.cap))); }
  Vector logit(const Pair& at, Vector s) const {
    const Vector distance = hn::Abs(hn::ConvertTo(Lanes(), at.distance()));
    return hn::NegMulAdd(hn::Set(Lanes(), parameters.slope), distance,
                         hn::Mul(hn::Set(Lanes(), parameters.cap), saturated(s)));
  }
  Vector logit_derivative(const Pair&, Vector s) const {
    const Vector t = saturated(s);
    return hn::NegMulAdd(t, t, hn::Set(Lanes(), 1.0f));
  }
  LaneMask visible(const Pair& at) const {
    const Integers di;
    const auto distance = at.distance();
    const auto inside = hn::And(hn::Gt(distance, hn::Set(di, -1)), hn::Lt(distance, hn::Set(di, parameters.window)));
    return hn::RebindMask(Lanes(), inside);
  }
  Vector multiplier(const Pair& at) const {
    return hn::MulAdd(hn::ConvertTo(Lanes(), at.distance()), hn::Set(Lanes(), 0.01f), hn::Set(Lanes(), 1.0f));
  }
};

/// 1 / (1 + exp(-(s + bias))).
struct Sigmoid : VariantBase<VariantParameters> {
  Vector weight(const Pair&, Vector s, const State&) const {
    return sigmoid_of(hn::Add(s, hn::Set(Lanes(), parameters.bias)));
  }
  Vector weight_derivative(const Pair& at, Vector s, const State& state) const {
    const Vector w = weight(at, s, state);
    return hn::Mul(w, hn::Sub(hn::Set(Lanes(), 1.0f), w));
  }
};

/// Clipped softmax; the row's state is its maximum, which needs no gradient, and its sum.
struct Clipped : VariantBase<VariantParameters, 2> {
  static Vector e(Vector s, Vector top) { return exp2_of(hn::Mul(hn::Sub(s, top), hn::Set(Lanes(), kLog2E))); }
  State start(const Row&) const { return {hn::Set(Lanes(), -1e30f), hn::Zero(Lanes())}; }
  State update(const Pair&, const State& state, Vector s) const { return merge(state, {s, hn::Set(Lanes(), 1.0f)}); }
  State merge(const State& a, const State& b) const {
    const Vector top = hn::Max(a[0], b[0]);
    return {top, hn::MulAdd(a[1], e(a[0], top), hn::Mul(b[1], e(b[0], top)))};
  }
  Vector stretched(Vector s, const State& state) const {
    const Vector p = hn::Div(e(s, state[0]), state[1]);
    return hn::MulAdd(hn::Set(Lanes(), parameters.zeta - parameters.gamma), p, hn::Set(Lanes(), parameters.gamma));
  }
  Vector weight(const Pair&, Vector s, const State& state) const {
    return hn::Min(hn::Max(stretched(s, state), hn::Zero(Lanes())), hn::Set(Lanes(), 1.0f));
  }
  // d weight / d p where it is not clipped.
  Vector slope(Vector s, const State& state) const {
    const Vector x = stretched(s, state);
    const auto inside = hn::And(hn::Gt(x, hn::Zero(Lanes())), hn::Lt(x, hn::Set(Lanes(), 1.0f)));
    return hn::IfThenElseZero(inside, hn::Set(Lanes(), parameters.zeta - parameters.gamma));
  }
  Vector weight_derivative(const Pair&, Vector s, const State& state) const {
    return hn::Mul(slope(s, state), hn::Div(e(s, state[0]), state[1]));
  }
  Vector weight_state_derivative(const Pair&, Vector s, const State& state, int k) const {
    if (k == 0) return hn::Zero(Lanes());
    return hn::Neg(hn::Div(hn::Mul(slope(s, state), e(s, state[0])), hn::Mul(state[1], state[1])));
  }
  Vector state_derivative(const Pair&, Vector s, const State& state, int k) const {
    return k == 0 ? hn::Zero(Lanes()) : e(s, state[0]);
  }
};

/// q -> q * |q| and out -> out * (1 + c / 10 + i / 100): linear in the output, not in the query.
struct Transformed : VariantBase<VariantParameters> {
  Vector query(const Row&, int64_t, Vector q) const { return hn::Mul(q, hn::Abs(q)); }
  Vector query_derivative(const Row&, int64_t, Vector q) const { return hn::Add(hn::Abs(q), hn::Abs(q)); }
  Vector output_factor(const Row& at, int64_t c) const {
    const Vector i = hn::ConvertTo(Lanes(), at.query());
    return hn::MulAdd(i, hn::Set(Lanes(), 0.01f), hn::Set(Lanes(), 1 + 0.1f * static_cast<float>(c)));
  }
};

/// LA-1 of arXiv 2307.14995: the score itself is the weight, times exp(-slope distance).
struct Decayed : VariantBase<VariantParameters> {
  Vector weight(const Pair&, Vector s, const State&) const {
    return hn::IfThenElseZero(hn::Gt(s, hn::Set(Lanes(), -1e30f)), s);
  }
  Vector weight_derivative(const Pair&, Vector, const State&) const { return hn::Set(Lanes(), 1.0f); }
  Vector multiplier(const Pair& at) const {
    return exp2_of(hn::Mul(hn::ConvertTo(Lanes(), at.distance()), hn::Set(Lanes(), -kLog2E * parameters.slope)));
  }
};

HEED_VARIANT(Scored, ScoredTable)
HEED_VARIANT(Decayed, DecayedTable)
HEED_VARIANT(Sigmoid, SigmoidTable)
HEED_VARIANT(Clipped, ClippedTable)
HEED_VARIANT(Transformed, TransformedTable)

}  // namespace heed::testing::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "heed/error.h"
#include "heed/kernels/linear_chunk.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"

namespace heed::testing {
HWY_EXPORT(ScoredTable);
HWY_EXPORT(SigmoidTable);
HWY_EXPORT(ClippedTable);
HWY_EXPORT(TransformedTable);
HWY_EXPORT(DecayedTable);

namespace {

using namespace kernels;
using Kind = Normalizer::Kind;

class VariantOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(All, VariantOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

constexpr VariantParameters kParameters{2.5f, 0.125f, -1.5f, -0.02f, 1.1f, 40};

void expect_close(FlashCase& got, FlashCase& want) {
  got.check_guards();
  for (bool backward : {false, true}) {
    auto left = got.outputs(backward), right = want.outputs(backward);
    for (size_t t = 0; t < right.size(); ++t) {
      if (left[t].first != right[t].first) continue;
      EXPECT_LE(relative_error(*left[t].second, *right[t].second), backward ? 1e-4 : 2e-5) << left[t].first;
    }
  }
}

/// Runs `base` with the variant, and `builtin` by the double reference with what `change` sets.
template <class Change>
void compare(const VariantTable* table, const FlashFeatures& base, const FlashFeatures& builtin, const Change& change,
             bool own = false) {
  HEED_SEED(random, 31);
  for (FlashShape shape : {FlashShape{2, 2, 1, 1, 130, 150, 20, 12}, FlashShape{1, 1, 1, 1, 1, 33, 4, 40}}) {
    const uint64_t seed = random();
    FlashCase got(shape, base, DType::f32, seed), want(shape, builtin, DType::f32, seed);
    want.q = got.q, want.k = got.k, want.v = got.v, want.d_out = got.d_out, want.d_lse = got.d_lse;
    const Variant variant{table, &kParameters};
    FlashParams p = got.params();
    FlashGrads g = got.grads();
    if (own) p.lse = {}, g.d_lse = {}, got.lse = Tensor(DType::f32, got.lse.size()).fill([] { return 0; });
    flash_forward(p, variant);
    flash_backward(p, variant, g);
    FlashParams q = want.params();
    FlashGrads wanted = want.grads();
    if (own) wanted.d_lse = {};
    change(q, want);
    reference::flash_forward(q);
    reference::flash_backward(q, wanted);
    if (own) want.lse = got.lse;
    expect_close(got, want);
  }
}

TEST_P(VariantOnIsa, ScoresMaskAndMultiplierAreTheBuiltIn) {
  static const float slopes[] = {0.125f, 0.125f};
  for (bool dropout : {false, true}) {
    FlashFeatures base{.mask = SinkTokens{120}, .dropout = dropout ? 0.2 : 0, .sink = true};
    FlashFeatures builtin = base;
    builtin.mask = SinkTokens{120} & Window{40};
    compare(HEED_DISPATCH(ScoredTable)(), base, builtin, [&](FlashParams& p, FlashCase& want) {
      p.scores.softcap = kParameters.cap, p.scores.alibi_slopes = slopes;
      want.multiplier = Tensor(DType::f32, {1, 1, p.q.size[2], p.k.size[2]});
      want.multiplier.each([&](int64_t b, int64_t h, int64_t i, int64_t j) {
        want.multiplier.set(b, h, i, j, 1 + 0.01 * static_cast<double>(i + p.k.size[2] - p.q.size[2] - j));
      });
      p.scores.multiplier = want.multiplier;
    });
  }
}

TEST_P(VariantOnIsa, ANormaliserOfItsOwnIsTheBuiltIn) {
  for (const Mask& mask : {Mask(), Mask(Causal{})}) {
    FlashFeatures base{.mask = mask, .dropout = 0.1, .bias = {{0, 0, 0}}};
    FlashFeatures sigmoid = base, clipped = base;
    sigmoid.kind = Kind::sigmoid, clipped.kind = Kind::clipped_softmax;
    compare(
        HEED_DISPATCH(SigmoidTable)(), base, sigmoid,
        [&](FlashParams& p, FlashCase& want) {
          want.sigmoid_bias = Tensor(DType::f32, {1, 1, 1, 1}).fill([] { return kParameters.bias; });
          p.normalizer.sigmoid_bias = want.sigmoid_bias;
        },
        true);
    compare(
        HEED_DISPATCH(ClippedTable)(), base, clipped,
        [&](FlashParams& p, FlashCase&) {
          p.normalizer.gamma = kParameters.gamma, p.normalizer.zeta = kParameters.zeta;
        },
        true);
  }
}

TEST_P(VariantOnIsa, QueriesAndOutputsAreTransformedWithTheirDerivatives) {
  HEED_SEED(random, 32);
  for (DType dtype : {DType::f32, DType::bf16}) {
    FlashCase got({2, 2, 1, 1, 75, 90, 12, 20}, {.mask = Causal{}}, dtype, random());
    const Variant variant{HEED_DISPATCH(TransformedTable)(), &kParameters};
    flash_forward(got.params(), variant);
    flash_backward(got.params(), variant, got.grads());
    got.check_guards();
    FlashCase want({2, 2, 1, 1, 75, 90, 12, 20}, {.mask = Causal{}}, DType::f64, 1);
    const auto factor = [](int64_t i, int64_t c) {
      return 1 + 0.1 * static_cast<double>(c) + 0.01 * static_cast<double>(i);
    };
    want.k = got.k.as(DType::f64), want.v = got.v.as(DType::f64), want.d_lse = got.d_lse.as(DType::f64);
    want.q.each([&](int64_t b, int64_t h, int64_t i, int64_t c) {
      const double q = got.q.at(b, h, i, c);
      want.q.set(b, h, i, c, q * std::fabs(q));
    });
    want.out.each([&](int64_t b, int64_t h, int64_t i, int64_t c) {
      want.d_out.set(b, h, i, c, got.d_out.at(b, h, i, c) * factor(i, c));
    });
    reference::flash_forward(want.params());
    reference::flash_backward(want.params(), want.grads());
    want.out.each([&](int64_t b, int64_t h, int64_t i, int64_t c) {
      want.out.set(b, h, i, c, want.out.at(b, h, i, c) * factor(i, c));
    });
    want.q.each([&](int64_t b, int64_t h, int64_t i, int64_t c) {
      want.d_q.set(b, h, i, c, want.d_q.at(b, h, i, c) * 2 * std::fabs(got.q.at(b, h, i, c)));
    });
    const double unit = dtype == DType::bf16 ? std::ldexp(1, -7) : 0;
    EXPECT_LE(relative_error(got.out, want.out), 2e-5 + unit);
    EXPECT_LE(relative_error(got.d_q, want.d_q), 1e-4 + unit);
    EXPECT_LE(relative_error(got.d_k, want.d_k), 1e-4 + unit);
    EXPECT_LE(relative_error(got.d_v, want.d_v), 1e-4 + unit);
  }
}

TEST_P(VariantOnIsa, TheIdentityAsNormaliserIsLinearAttentionWithADecay) {
  HEED_SEED(random, 33);
  FlashCase tiled({2, 3, 3, 3, 150, 150, 20, 12}, {.mask = Causal{}, .d_lse = false}, DType::f32, random());
  FlashParams p = tiled.params();
  p.lse = {};
  flash_forward(p, Variant{HEED_DISPATCH(DecayedTable)(), &kParameters});
  flash_backward(p, Variant{HEED_DISPATCH(DecayedTable)(), &kParameters}, tiled.grads());

  FlashCase chunked = tiled;
  Tensor decay(DType::f32, {1, 1, 1, 1});
  decay.fill([] { return -kParameters.slope; });
  LinearChunkParams l;
  l.q = tiled.q, l.k = tiled.k, l.v = tiled.v, l.log_decay = decay, l.out = chunked.out;
  l.scale = 1 / std::sqrt(20.0);
  LinearChunkGrads g;
  g.d_out = tiled.d_out, g.d_q = chunked.d_q, g.d_k = chunked.d_k, g.d_v = chunked.d_v;
  linear_chunk(l);
  linear_chunk_backward(l, g);
  EXPECT_LE(relative_error(tiled.out, chunked.out), 2e-5);
  EXPECT_LE(relative_error(tiled.d_q, chunked.d_q), 2e-5);
  EXPECT_LE(relative_error(tiled.d_k, chunked.d_k), 2e-5);
  EXPECT_LE(relative_error(tiled.d_v, chunked.d_v), 2e-5);
}

TEST(Variant, RefusesWhatDoesNotFit) {
  FlashCase made({1, 1, 1, 1, 4, 4, 4, 4}, {}, DType::f32, 1);
  FlashParams p = made.params();
  EXPECT_THROW(flash_forward(p, Variant{}), Error);
  VariantTable foreign = *HEED_DISPATCH(ScoredTable)();
  foreign.lanes = 3;
  EXPECT_THROW(flash_forward(p, Variant{&foreign, &kParameters}), Error);
  EXPECT_THROW(flash_forward(p, Variant{HEED_DISPATCH(SigmoidTable)(), &kParameters}), Error) << "an lse is asked";
  p.normalizer.kind = Kind::clipped_softmax;
  EXPECT_THROW(flash_forward(p, Variant{HEED_DISPATCH(ScoredTable)(), &kParameters}), Error);
}

}  // namespace
}  // namespace heed::testing
#endif  // HWY_ONCE
