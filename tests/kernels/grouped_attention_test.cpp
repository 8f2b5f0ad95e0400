// Softmax in two levels: the tiled kernel against the double reference, and the reference against plain softmax and
// differences.
#include "heed/kernels/grouped_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/tensor.h"

namespace heed::testing::grouped_attention_test {
namespace {

using namespace kernels;

struct GroupedShape {
  int64_t batch = 2, q_heads = 4, kv_heads = 2, queries = 40, keys = 40, d = 8, dv = 8, block = 6;
};

struct GroupedCase {
  Tensor q, k, v, out, lse, d_out, d_q, d_k, d_v;
  GroupedShape shape;
  std::vector<uint8_t> hidden;
  double softcap = 0;

  GroupedCase(std::mt19937_64& random, DType type, const GroupedShape& s, Layout layout = Layout::dense,
              double size = 1)
      : q(type, {s.batch, s.q_heads, s.queries, s.d}, layout),
        k(type, {s.batch, s.kv_heads, s.keys, s.d}, layout),
        v(type, {s.batch, s.kv_heads, s.keys, s.dv}, layout),
        out(type, {s.batch, s.q_heads, s.queries, s.dv}, layout),
        lse(type == DType::f64 ? DType::f64 : DType::f32, {s.batch, s.q_heads, s.queries, 1}),
        d_out(type, out.size(), layout),
        d_q(type, q.size(), layout),
        d_k(type, k.size(), layout),
        d_v(type, v.size(), layout),
        shape(s) {
    for (Tensor* x : {&q, &k}) x->normal(random, std::sqrt(size), 0);
    for (Tensor* x : {&v, &d_out}) x->normal(random);
  }
  /// Hides keys by chance; of some blocks all, or the landmark alone.
  void hide(std::mt19937_64& random) {
    for (int64_t i = 0; i < shape.batch * shape.keys; ++i)
      hidden.push_back(random() % 6 == 0 || i / shape.block % 5 == 1 || (i / shape.block % 5 == 3 && i % 2 == 0));
  }
  GroupedParams params() const {
    GroupedParams p;
    p.q = q, p.k = k, p.v = v, p.out = out, p.lse = lse;
    p.block = shape.block, p.softcap = softcap;
    if (!hidden.empty()) p.hidden = hidden.data(), p.hidden_stride = shape.keys;
    return p;
  }
  GroupedGrads grads() const { return {d_out, d_q, d_k, d_v}; }
};

void expect_matches(GroupedCase& made, double forward, double backward) {
  GroupedCase expected = made;
  grouped_attention(made.params());
  reference::grouped_attention(expected.params());
  reference::grouped_attention_backward(expected.params(), expected.grads());
  grouped_attention_backward(made.params(), made.grads());
  for (Tensor* x : {&made.out, &made.lse, &made.d_q, &made.d_k, &made.d_v}) x->check_guards("output");
  EXPECT_LE(relative_error(made.out, expected.out), forward);
  EXPECT_LE(relative_error(made.lse, expected.lse), std::max(forward, 1e-5));
  EXPECT_LE(relative_error(made.d_q, expected.d_q), backward);
  EXPECT_LE(relative_error(made.d_k, expected.d_k), backward);
  EXPECT_LE(relative_error(made.d_v, expected.d_v), backward);
}

class GroupedOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, GroupedOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(GroupedOnIsa, MatchesReferenceOverRandomShapes) {
  HEED_SEED(random, 20250611);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 32; ++round) {
    GroupedShape s;
    s.kv_heads = 1 + below(2), s.q_heads = s.kv_heads * (1 + below(3)), s.d = 1 + below(40), s.dv = 1 + below(40);
    s.block = round % 8 == 7 ? 256 : 2 + below(round % 2 == 0 ? 9 : 90);
    s.keys = 9 + below(round % 8 == 7 ? 560 : 260), s.queries = round % 3 == 0 ? 1 + below(s.keys) : s.keys;
    SCOPED_TRACE(fmt::format("Hq {} Hk {} N {} M {} D {} Dv {} block {}", s.q_heads, s.kv_heads, s.queries, s.keys, s.d,
                             s.dv, s.block));
    GroupedCase made(random, DType::f32, s, layouts[round % 4], round % 5 == 0 ? 6 : 1);
    if (round % 3 == 1) made.hide(random);
    made.softcap = round % 4 == 2 ? 1.5 : 0;
    expect_matches(made, 1e-5, 1e-4);
  }
}

TEST_P(GroupedOnIsa, SmallFloatsMatchReference) {
  HEED_SEED(random, 20250612);
  // The rounding of the inputs is shared; outputs are rounded once, and the backward reads the rounded ones.
  for (const auto& [dtype, unit] : {std::pair{DType::bf16, std::ldexp(1, -8)}, {DType::f16, std::ldexp(1, -11)}}) {
    GroupedShape s;
    s.queries = s.keys = 150, s.block = 17, s.d = 40, s.dv = 24;
    GroupedCase made(random, dtype, s);
    expect_matches(made, 2 * unit, 4 * unit);
  }
}

TEST(GroupedAttention, GradientsOfTheReferenceAreDifferences) {
  HEED_SEED(random, 20250613);
  GroupedShape s;
  s.queries = 13, s.keys = 17, s.block = 4, s.d = 5, s.dv = 3;
  for (const double softcap : {0.0, 1.0}) {
    GroupedCase made(random, DType::f64, s);
    made.softcap = softcap;
    made.hide(random);
    const auto value = [&](GroupedCase& of) {
      reference::grouped_attention(of.params());
      double sum = 0;
      of.out.each(
          [&](int64_t b, int64_t h, int64_t n, int64_t c) { sum += of.out.at(b, h, n, c) * of.d_out.at(b, h, n, c); });
      return sum;
    };
    value(made);
    reference::grouped_attention_backward(made.params(), made.grads());
    for (const auto& [name, input, gradient] : {std::tuple{"q", &GroupedCase::q, &GroupedCase::d_q},
                                                {"k", &GroupedCase::k, &GroupedCase::d_k},
                                                {"v", &GroupedCase::v, &GroupedCase::d_v}}) {
      const Tensor& x = made.*input;
      for (int round = 0; round < 30; ++round) {
        const auto below = [&](int axis) {
          return static_cast<int64_t>(random() % static_cast<uint64_t>(x.size()[axis]));
        };
        const int64_t b = below(0), h = below(1), n = below(2), c = below(3);
        constexpr double kStep = 1e-5;
        GroupedCase more = made, less = made;
        (more.*input).set(b, h, n, c, x.at(b, h, n, c) + kStep),
            (less.*input).set(b, h, n, c, x.at(b, h, n, c) - kStep);
        // The error of the difference is of order step^2 and rounding / step.
        EXPECT_NEAR((made.*gradient).at(b, h, n, c), (value(more) - value(less)) / (2 * kStep), 1e-8) << name;
      }
    }
  }
}

TEST(GroupedAttention, ALandmarkThatSumsUpItsBlockGivesPlainSoftmax) {
  // Keys of one channel: the last query's logits are the keys themselves.
  HEED_SEED(random, 20250614);
  GroupedShape s;
  s.batch = s.q_heads = s.kv_heads = 1, s.d = 1, s.dv = 4, s.queries = 1, s.keys = 23, s.block = 5;
  GroupedCase made(random, DType::f64, s);
  made.q.set(0, 0, 0, 0, 1);
  for (int64_t g = 0; g < 4; ++g) {
    double sum = 0;
    for (int64_t j = 5 * g; j < 5 * g + 4; ++j) sum += std::exp(made.k.at(0, 0, j, 0));
    made.k.set(0, 0, 5 * g + 4, 0, std::log(sum));
  }
  reference::grouped_attention(made.params());
  double all = 0;
  for (int64_t j = 0; j < 23; ++j) all += j % 5 == 4 ? 0 : std::exp(made.k.at(0, 0, j, 0));
  for (int64_t c = 0; c < 4; ++c) {
    double expected = 0;
    for (int64_t j = 0; j < 23; ++j)
      expected += j % 5 == 4 ? 0 : std::exp(made.k.at(0, 0, j, 0)) / all * made.v.at(0, 0, j, c);
    EXPECT_NEAR(made.out.at(0, 0, 0, c), expected, 1e-13);
  }
}

TEST(GroupedAttention, NaNStaysWhereItIsSeen) {
  HEED_SEED(random, 20250615);
  GroupedShape s;
  s.batch = 1, s.queries = s.keys = 60, s.block = 7;
  GroupedCase clean(random, DType::f32, s);
  grouped_attention(clean.params());
  const int64_t landmark = 4 * 7 + 6, hidden = 3 * 7 + 2, later = 45;
  for (const bool key : {true, false})
    for (const int64_t place : {landmark, hidden, later}) {
      GroupedCase bad = clean;
      bad.hidden.assign(60, 0);
      if (place == hidden) bad.hidden[hidden] = 1;
      GroupedCase expected = bad;
      grouped_attention(expected.params());
      for (int64_t h = 0; h < 2; ++h) (key ? bad.k : bad.v).set(0, h, place, 3, NAN);
      grouped_attention(bad.params());
      for (int64_t i = 0; i < 60; ++i) {
        const bool reached = place == hidden ? false : place == landmark ? key && i > landmark : i >= later;
        EXPECT_EQ(std::isnan(bad.out.at(0, 1, i, 3)), reached) << "query " << i << " key " << place;
        if (!reached) {
          EXPECT_EQ(bad.out.at(0, 1, i, 3), expected.out.at(0, 1, i, 3));
        }
      }
    }
}

TEST(GroupedAttention, ThreadsChangeNoBit) {
  HEED_SEED(random, 20250616);
  GroupedShape s;
  s.queries = s.keys = 500, s.block = 24;
  GroupedCase one(random, DType::f32, s), many = one;
  const int before = num_threads();
  set_num_threads(1);
  grouped_attention(one.params()), grouped_attention_backward(one.params(), one.grads());
  set_num_threads(3);
  grouped_attention(many.params()), grouped_attention_backward(many.params(), many.grads());
  set_num_threads(before);
  EXPECT_TRUE(one.out.same_bits(many.out));
  EXPECT_TRUE(one.d_q.same_bits(many.d_q));
  EXPECT_TRUE(one.d_k.same_bits(many.d_k));
  EXPECT_TRUE(one.d_v.same_bits(many.d_v));
}

TEST(GroupedAttention, SaysWhatDoesNotFit) {
  const auto message = [](auto&& spoil) -> std::string {
    std::mt19937_64 random(1);
    GroupedCase made(random, DType::f32, {});
    GroupedParams p = made.params();
    spoil(p);
    try {
      grouped_attention(p);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message([](GroupedParams&) {}), "");
  EXPECT_NE(message([](GroupedParams& p) { p.block = 1; }).find("blocks of 1 keys; 2 to 256"), std::string::npos);
  EXPECT_NE(message([](GroupedParams& p) { p.block = 257; }).find("blocks of 257 keys"), std::string::npos);
  EXPECT_NE(message([](GroupedParams& p) { p.k.size[2] = p.v.size[2] = 39; }).find("40 queries and 39 keys"),
            std::string::npos);
  EXPECT_NE(message([](GroupedParams& p) { p.v.size[1] = 1; }).find("v of shape"), std::string::npos);
}

}  // namespace
}  // namespace heed::testing::grouped_attention_test
