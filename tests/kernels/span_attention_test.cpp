// Attention to runs of keys: against double, its gradients against differences, and what it does with nothing.
#include "heed/kernels/span_attention.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/tensor.h"

namespace heed::testing::span_attention_test {
namespace {

using namespace kernels;

struct SpanCase {
  Tensor q, k, v, out, lse, d_out, d_lse, d_q, d_k, d_v;
  std::array<int64_t, 4> runs;
  std::vector<int32_t> begins, ends;
  std::vector<uint8_t> hidden;

  SpanCase(std::mt19937_64& random, DType type, int64_t queries, int64_t keys, int64_t d, int64_t dv, int64_t count,
           Layout layout = Layout::dense)
      : q(type, {2, 4, queries, d}, layout),
        k(type, {2, 2, keys, d}, layout),
        v(type, {2, 2, keys, dv}, layout),
        out(type, {2, 4, queries, count * dv}, layout),
        lse(type, {2, 4, queries, count}),
        d_out(type, {2, 4, queries, count * dv}, layout),
        d_lse(type, {2, 4, queries, count}),
        d_q(type, q.size(), layout),
        d_k(type, k.size(), layout),
        d_v(type, v.size(), layout),
        runs{2, 4, queries, count} {
    for (Tensor* x : {&q, &k, &v, &d_out, &d_lse}) x->normal(random);
    for (int64_t i = 0; i < 8 * queries * count; ++i) {
      const auto at = [&] { return static_cast<int32_t>(random() % static_cast<uint64_t>(keys + 1)); };
      begins.push_back(at()), ends.push_back(at());
    }
    if (random() % 2 == 0)
      for (int64_t i = 0; i < 2 * keys; ++i) hidden.push_back(random() % 3 == 0);
  }
  SpanParams params() const {
    SpanParams p;
    p.q = q, p.k = k, p.v = v, p.out = out, p.lse = lse;
    p.begins = {begins.data(), runs, dense_strides(runs)}, p.ends = {ends.data(), runs, dense_strides(runs)};
    if (!hidden.empty()) p.hidden = hidden.data(), p.hidden_stride = k.size()[2];
    p.scale = 0.4;
    return p;
  }
  SpanGrads grads() const { return {d_out, d_lse, d_q, d_k, d_v}; }
};

class SpansOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, SpansOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(SpansOnIsa, MatchesReference) {
  HEED_SEED(random, 20260126);
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  for (int round = 0; round < 16; ++round) {
    SpanCase fast(random, DType::f32, below(20), below(60), 1 + below(70), 1 + below(40), 1 + below(3),
                  layouts[round % 4]);
    SpanCase slow = fast;
    span_attention(fast.params());
    reference::span_attention(slow.params());
    EXPECT_LE(relative_error(fast.out, slow.out), 2e-5);
    EXPECT_LE(relative_error(fast.lse, slow.lse), 2e-5);
    span_attention_backward(fast.params(), fast.grads());
    reference::span_attention_backward(slow.params(), slow.grads());
    EXPECT_LE(relative_error(fast.d_q, slow.d_q), 1e-4);
    EXPECT_LE(relative_error(fast.d_k, slow.d_k), 1e-4);
    EXPECT_LE(relative_error(fast.d_v, slow.d_v), 1e-4);
    for (const Tensor* x : {&fast.out, &fast.lse, &fast.d_q, &fast.d_k, &fast.d_v}) x->check_guards("a result");
  }
}

TEST(SpanAttention, GradientsAgreeWithDifferences) {
  HEED_SEED(random, 5);
  SpanCase c(random, DType::f64, 5, 12, 6, 4, 2);
  const auto value = [&] {
    span_attention(c.params());
    double sum = 0;
    c.out.each(
        [&](int64_t b, int64_t h, int64_t n, int64_t d) { sum += c.out.at(b, h, n, d) * c.d_out.at(b, h, n, d); });
    c.lse.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
      if (std::isfinite(c.lse.at(b, h, n, d))) sum += c.lse.at(b, h, n, d) * c.d_lse.at(b, h, n, d);
    });
    return sum;
  };
  value();
  span_attention_backward(c.params(), c.grads());
  for (auto [x, grad] : {std::pair{&c.q, &c.d_q}, {&c.k, &c.d_k}, {&c.v, &c.d_v}}) {
    Tensor direction(DType::f64, x->size());
    direction.normal(random);
    double expected = 0;
    const auto move = [&, x = x](double step) {
      x->each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
        x->set(b, h, n, d, x->at(b, h, n, d) + step * direction.at(b, h, n, d));
      });
    };
    x->each([&, grad = grad](int64_t b, int64_t h, int64_t n, int64_t d) {
      expected += grad->at(b, h, n, d) * direction.at(b, h, n, d);
    });
    move(1e-5);
    const double above = value();
    move(-2e-5);
    EXPECT_NEAR((above - value()) / 2e-5, expected, 1e-6 * std::max(1.0, std::fabs(expected)));
    move(1e-5);
  }
}

TEST(SpanAttention, EmptyRunsAreNothingAndBadOnesAreNamed) {
  HEED_SEED(random, 6);
  SpanCase c(random, DType::f32, 3, 9, 5, 4, 2);
  c.hidden.assign(18, 0);
  std::fill(c.begins.begin(), c.begins.end(), 4);
  c.ends = c.begins;
  span_attention(c.params());
  span_attention_backward(c.params(), c.grads());
  c.out.each([&](int64_t b, int64_t h, int64_t n, int64_t d) { EXPECT_EQ(c.out.at(b, h, n, d), 0); });
  c.lse.each([&](int64_t b, int64_t h, int64_t n, int64_t d) { EXPECT_EQ(c.lse.at(b, h, n, d), -INFINITY); });
  for (const Tensor* x : {&c.d_q, &c.d_k, &c.d_v})
    x->each([&](int64_t b, int64_t h, int64_t n, int64_t d) { EXPECT_EQ(x->at(b, h, n, d), 0); });
  // A run whose keys are all hidden is empty.
  std::fill(c.ends.begin(), c.ends.end(), 6);
  for (const int64_t j : {4, 5, 13, 14}) c.hidden[j] = 1;
  span_attention(c.params());
  EXPECT_EQ(c.lse.at(0, 0, 0), -INFINITY);
  c.ends[7] = 10;
  EXPECT_THROW(span_attention(c.params()), Error);
  c.ends[7] = 5, c.begins[7] = -1;
  EXPECT_THROW(span_attention(c.params()), Error);
}

}  // namespace
}  // namespace heed::testing::span_attention_test
