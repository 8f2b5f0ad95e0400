#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/attn_stats.h"
#include "heed/kernels/runtime.h"
#include "support/decode_case.h"
#include "support/flash_case.h"

namespace heed::testing::attention_weights_test {
namespace {

using namespace kernels;

constexpr double kTolerance = 2e-5;

struct Gradients {
  Gradients(const FlashCase& c, Layout layout = Layout::dense)
      : d_q(c.q.view().dtype, c.q.size(), layout),
        d_k(c.k.view().dtype, c.k.size(), layout),
        d_lse(c.lse.view().dtype, c.lse.size()) {}
  Tensor d_q, d_k, d_lse;
};

std::vector<int64_t> random_rows(std::mt19937_64& random, int64_t queries) {
  std::vector<int64_t> rows;
  while (rows.size() < 12) {
    int64_t row = static_cast<int64_t>(random() % static_cast<uint64_t>(queries));
    for (uint64_t run = random() % 5 + 1; run > 0 && row < queries; --run) rows.push_back(row++);
  }
  return rows;
}

class WeightsOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, WeightsOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(WeightsOnEveryIsa, RandomCallsEqualTheReference) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    HEED_SEED(random, seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const DType types[] = {DType::f32, DType::f16, DType::bf16};
    const DType type = types[below(3)];
    FlashShape shape;
    shape.batch = 1 + below(2), shape.k_heads = 1 + below(2), shape.q_heads = shape.k_heads * (1 + below(3));
    shape.queries = 1 + below(60), shape.keys = 1 + below(200), shape.d = 1 + below(50);
    FlashFeatures f;
    const Mask masks[] = {Mask(), Causal{}, Causal{} & Window{30}, Causal{} & Dilation{2}};
    f.mask = masks[below(4)], f.softcap = below(2) * 2.5, f.alibi = below(3) == 0, f.temperature = below(3) == 0;
    f.sink = below(3) == 0, f.lengths = below(3) == 0, f.head_maps = below(4) == 0;
    if (below(3) == 0) f.bias = std::array<int64_t, 3>{0, 1, 0};
    if (below(4) == 0) f.packed_q = {4, 0, 17}, f.packed_k = {9, 3, 1 + below(80)}, f.lengths = false;
    FlashCase c(shape, f, type, seed, below(2) == 0 ? Layout::dense : Layout::heads_last);
    flash_forward(c.params());
    FlashParams p = c.params();
    p.v = {}, p.out = {};
    const std::vector<int64_t> rows = random_rows(random, c.shape().queries);
    const auto count = static_cast<int64_t>(rows.size());
    const std::array<int64_t, 4> size{c.shape().batch, shape.q_heads, count, c.shape().keys};
    Tensor want(DType::f32, size), got(DType::f32, size, Layout::sliced), d_weights(DType::f32, size, Layout::reversed);
    d_weights.normal(random);
    kernels::reference::attention_weights(p, rows.data(), count, want);
    attention_weights(p, rows.data(), count, got);
    EXPECT_LE(relative_error(got, want), kTolerance);
    got.check_guards("weights");

    Gradients wanted(c), grads(c, Layout::sliced);
    kernels::reference::attention_weights_backward(p, rows.data(), count, want, d_weights, wanted.d_q, wanted.d_k,
                                                   wanted.d_lse);
    attention_weights_backward(p, rows.data(), count, got, d_weights, grads.d_q, grads.d_k, grads.d_lse);
    // The reference rounds once, too.
    const double tolerance = kTolerance + 2 * rounding_of(type);
    EXPECT_LE(relative_error(grads.d_q, wanted.d_q), tolerance);
    EXPECT_LE(relative_error(grads.d_k, wanted.d_k), tolerance);
    EXPECT_LE(relative_error(grads.d_lse, wanted.d_lse), kTolerance);
    for (auto [name, tensor] : {std::pair{"d_q", &grads.d_q}, {"d_k", &grads.d_k}, {"d_lse", &grads.d_lse}})
      tensor->check_guards(name);
    if (HasFailure()) break;
  }
}

TEST(AttentionWeights, TimesValuesIsTheOutput) {
  FlashFeatures f;
  f.mask = Causal{}, f.softcap = 5, f.sink = true;
  FlashCase c({2, 4, 2, 2, 33, 50, 24, 16}, f, DType::f32, 3);
  flash_forward(c.params());
  const std::vector<int64_t> rows{32, 0, 7, 8, 9};
  Tensor weights(DType::f32, {2, 4, 5, 50}), out(DType::f32, {2, 4, 5, 16}), want(DType::f32, {2, 4, 5, 16});
  attention_weights(c.params(), rows.data(), 5, weights);
  out.each([&](int64_t b, int64_t h, int64_t r, int64_t d) {
    double sum = 0;
    for (int64_t j = 0; j < 50; ++j) sum += weights.at(b, h, r, j) * c.v.at(b, h / 2, j, d);
    out.set(b, h, r, d, sum);
    want.set(b, h, r, d, c.out.at(b, h, rows[r], d));
  });
  EXPECT_LE(relative_error(out, want), kTolerance);
}

// lse is an input of its own: the gradient through it is the caller's to chain.
TEST(AttentionWeights, GradientsEqualCentralDifferences) {
  FlashFeatures f;
  f.mask = Causal{}, f.softcap = 2, f.alibi = true, f.temperature = true, f.sink = true;
  f.bias = std::array<int64_t, 3>{1, 0, 0};
  FlashCase c({1, 2, 1, 1, 5, 8, 3, 2}, f, DType::f64, 7);
  kernels::reference::flash_forward(c.params());
  const std::vector<int64_t> rows{4, 1, 2, 4};
  Tensor weights(DType::f64, {1, 2, 4, 8}), d_weights(DType::f64, {1, 2, 4, 8});
  HEED_SEED(random, 2);
  d_weights.normal(random);
  const auto loss = [&] {
    attention_weights(c.params(), rows.data(), 4, weights);
    double sum = 0;
    weights.each(
        [&](int64_t b, int64_t h, int64_t r, int64_t j) { sum += weights.at(b, h, r, j) * d_weights.at(b, h, r, j); });
    return sum;
  };
  loss();
  Gradients grads(c);
  attention_weights_backward(c.params(), rows.data(), 4, weights, d_weights, grads.d_q, grads.d_k, grads.d_lse);
  for (auto [of, grad] : {std::pair{&c.q, &grads.d_q}, {&c.k, &grads.d_k}, {&c.lse, &grads.d_lse}}) {
    of->each([&, of = of, grad = grad](int64_t b, int64_t h, int64_t n, int64_t d) {
      const double x = of->at(b, h, n, d), step = 1e-6;
      of->set(b, h, n, d, x + step);
      const double above = loss();
      of->set(b, h, n, d, x - step);
      const double below = loss();
      of->set(b, h, n, d, x);
      EXPECT_NEAR(grad->at(b, h, n, d), (above - below) / (2 * step), 1e-8);
    });
  }
}

TEST(AttentionWeights, HiddenKeysMatterNeitherInWeightsNorInGradients) {
  FlashFeatures f;
  f.mask = Causal{} & Window{4}, f.softcap = 3;
  FlashCase c({1, 1, 1, 1, 40, 40, 16, 8}, f, DType::f32, 6);
  flash_forward(c.params());
  const std::vector<int64_t> rows{20, 21, 22, 37};
  Tensor clean(DType::f32, {1, 1, 4, 40}), weights(DType::f32, {1, 1, 4, 40}), d_weights(DType::f32, {1, 1, 4, 40});
  HEED_SEED(random, 1);
  d_weights.normal(random);
  attention_weights(c.params(), rows.data(), 4, clean);
  Gradients want(c), got(c);
  attention_weights_backward(c.params(), rows.data(), 4, clean, d_weights, want.d_q, want.d_k, want.d_lse);
  for (int64_t j : {0, 16, 23, 39}) c.k.set(0, 0, j, 3, j == 16 ? INFINITY : NAN);
  attention_weights(c.params(), rows.data(), 4, weights);
  EXPECT_TRUE(weights.same_bits(clean));
  attention_weights_backward(c.params(), rows.data(), 4, weights, d_weights, got.d_q, got.d_k, got.d_lse);
  EXPECT_LE(relative_error(got.d_q, want.d_q), 1e-6);
  EXPECT_LE(relative_error(got.d_k, want.d_k), 1e-6);
}

TEST(AttentionWeights, BadRowsAreRefused) {
  FlashCase c({1, 1, 1, 1, 4, 6, 8, 8}, {}, DType::f32, 1);
  flash_forward(c.params());
  Tensor weights(DType::f32, {1, 1, 1, 6}), wrong(DType::f32, {1, 1, 2, 6});
  for (int64_t row : {-1, 4}) {
    try {
      attention_weights(c.params(), &row, 1, weights);
      FAIL() << "row " << row << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("query row " + std::to_string(row)), std::string::npos);
    }
  }
  const int64_t row = 2;
  EXPECT_THROW(attention_weights(c.params(), &row, 1, wrong), Error);
  EXPECT_NO_THROW(attention_weights(c.params(), nullptr, 0, Tensor(DType::f32, {1, 1, 0, 6})));
}

}  // namespace
}  // namespace heed::testing::attention_weights_test
