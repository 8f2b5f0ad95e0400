#include "heed/kernels/weight_influence.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/attn_stats.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"

namespace heed::testing::weight_influence_test {
namespace {

using namespace kernels;

Tensor influence_for(const FlashCase& c, int64_t query_block, int64_t key_block) {
  const auto s = c.shape();
  const DType type = c.q.view().dtype == DType::f64 ? DType::f64 : DType::f32;
  return {type,
          {s.batch, s.q_heads, (s.queries + query_block - 1) / query_block, (s.keys + key_block - 1) / key_block},
          Layout::sliced};
}

WeightInfluence params_of(const FlashCase& c, int64_t query_block, int64_t key_block, const Tensor& to) {
  WeightInfluence p;
  p.d_out = c.d_out, p.query_block = query_block, p.key_block = key_block, p.influence = to;
  return p;
}

/// d_out . out of one row, which is what the loss of a linear function says about it.
double loss_of_row(const FlashCase& c, const Tensor& out, int64_t b, int64_t h, int64_t i) {
  double loss = 0;
  for (int64_t d = 0; d < out.size()[3]; ++d) loss += c.d_out.at(b, h, i, d) * out.at(b, h, i, d);
  return loss;
}

struct HiddenPair {
  const Mask* mask;
  int64_t i, j;
  static bool visible(const void* context, int64_t b, int64_t h, int64_t i, int64_t j) {
    const auto& self = *static_cast<const HiddenPair*>(context);
    return !(i == self.i && j == self.j) && self.mask->visible({b, h, 7, 10}, i, j);
  }
};

// The definition: mask one key of one row, let softmax renormalise the rest, and look at the loss. In double.
TEST(WeightInfluence, IsTheChangeOfALinearLossWhenAPairIsMasked) {
  for (const bool sink : {false, true}) {
    FlashFeatures features;
    features.mask = Causal{} & Window{5}, features.sink = sink, features.softcap = 4, features.alibi = true;
    FlashCase c({1, 4, 2, 2, 7, 10, 6, 5}, features, DType::f64, 11);
    FlashParams p = c.params();
    flash_forward(p);
    const Tensor out = c.out;
    Tensor change = influence_for(c, 1, 1);
    WeightInfluence in = params_of(c, 1, 1, change);
    in.magnitude = false, in.epsilon = 0;
    weight_influence(p, in);
    const Mask mask = features.mask;
    for (int64_t i = 0; i < 7; ++i) {
      for (int64_t j = 0; j < 10; ++j) {
        const HiddenPair hidden{&mask, i, j};
        p.mask = Predicate{HiddenPair::visible, &hidden};
        Tensor other(DType::f64, c.out.size());
        p.out = other, p.lse = {};
        flash_forward(p);
        for (int64_t h = 0; h < 4; ++h) {
          EXPECT_NEAR(change.at(0, h, i, j), loss_of_row(c, other, 0, h, i) - loss_of_row(c, out, 0, h, i), 1e-10);
        }
      }
    }
  }
}

TEST(WeightInfluence, OnlyVisibleKeyTakesItsWholeContributionAway) {
  FlashFeatures features;
  features.mask = Causal{};
  for (const DType type : {DType::f64, DType::f32}) {
    FlashCase c({1, 1, 1, 1, 4, 4, 8, 8}, features, type, 2);
    flash_forward(c.params());
    Tensor change = influence_for(c, 1, 1);
    WeightInfluence in = params_of(c, 1, 1, change);
    in.magnitude = false;
    weight_influence(c.params(), in);
    EXPECT_NEAR(change.at(0, 0, 0, 0), -loss_of_row(c, c.out, 0, 0, 0), type == DType::f64 ? 1e-10 : 1e-5);
  }
}

// sum_j (1 - P_ij) E_ij = 0 in every row that sees more than one key.
TEST(WeightInfluence, WeightedByWhatRemainsItSumsToZero) {
  FlashFeatures features;
  features.mask = Causal{}, features.logit_size = 3;
  FlashCase c({2, 4, 2, 1, 20, 27, 8, 6}, features, DType::f64, 5);
  flash_forward(c.params());
  Tensor change = influence_for(c, 1, 1), weights(DType::f64, {2, 4, 20, 27});
  WeightInfluence in = params_of(c, 1, 1, change);
  in.magnitude = false, in.epsilon = 0;
  weight_influence(c.params(), in);
  std::vector<int64_t> rows(20);
  for (int64_t i = 0; i < 20; ++i) rows[i] = i;
  attention_weights(c.params(), rows.data(), 20, weights);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t h = 0; h < 4; ++h) {
      for (int64_t i = 0; i < 20; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < 27; ++j) sum += (1 - weights.at(b, h, i, j)) * change.at(b, h, i, j);
        EXPECT_NEAR(sum, 0, 1e-10);
      }
    }
  }
}

class InfluenceOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, InfluenceOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(InfluenceOnEveryIsa, RandomCallsEqualTheReference) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    HEED_SEED(random, seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const auto chance = [&](int64_t of) { return below(of) == 0; };
    const DType types[] = {DType::f32, DType::f32, DType::f16, DType::bf16};
    const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
    const int64_t sizes[] = {1, 8, 40, 64};
    FlashShape shape;
    shape.batch = 1 + below(2), shape.k_heads = shape.v_heads = 1 + below(2);
    shape.q_heads = shape.k_heads * (1 + below(3));
    shape.queries = 1 + below(260), shape.keys = 1 + below(260), shape.d = sizes[below(4)], shape.dv = sizes[below(4)];
    FlashFeatures features;
    const Mask masks[] = {Mask(), Causal{}, Causal{} & (Window{20} | SinkTokens{3}), Causal{} & Dilation{3}};
    features.mask = masks[below(4)];
    features.softcap = chance(3) ? 3 : 0, features.alibi = chance(3), features.sink = chance(3);
    features.lengths = chance(3), features.head_maps = chance(4);
    FlashCase c(shape, features, types[below(4)], seed, layouts[below(4)]);
    flash_forward(c.params());
    const int64_t query_block = 1 + below(100), key_block = 1 + below(100);
    Tensor got = influence_for(c, query_block, key_block), want = influence_for(c, query_block, key_block);
    WeightInfluence in = params_of(c, query_block, key_block, want);
    in.magnitude = !chance(3);
    FlashParams p = c.params();
    p.out = {};
    kernels::reference::weight_influence(p, in);
    in.influence = got;
    weight_influence(p, in);
    got.check_guards("influence");
    // Float's rounding of logits, here of size up to 100 with ALiBi, is a relative error of weights up to 1e-5; it
    // grows by 1 / (1 - P) where a weight is large.
    EXPECT_LE(relative_error(got, want), 1e-4);
    if (HasFailure()) break;
  }
}

TEST(WeightInfluence, HiddenValuesNeverMatter) {
  FlashFeatures features;
  features.mask = Window{0, 0} | SinkTokens{2};
  FlashCase c({1, 1, 1, 1, 50, 90, 8, 8}, features, DType::f32, 4);
  const auto hidden = [](int64_t j) { return j >= 2 && j < 40; };
  c.v.each([&](int64_t b, int64_t h, int64_t j, int64_t d) {
    if (hidden(j)) c.v.set(b, h, j, d, NAN), c.k.set(b, h, j, d, INFINITY);
  });
  flash_forward(c.params());
  Tensor change = influence_for(c, 16, 16);
  weight_influence(c.params(), params_of(c, 16, 16, change));
  change.each([&](int64_t b, int64_t h, int64_t i, int64_t j) {
    ASSERT_TRUE(std::isfinite(change.at(b, h, i, j))) << i << " " << j;
  });
}

// Almost all of the weight on one key: what is left of 1 - P is rounding, and the answer stays finite and bounded.
TEST(WeightInfluence, WeightsNearOneStayBounded) {
  FlashFeatures features;
  features.logit_size = 400;
  FlashCase c({1, 2, 1, 1, 40, 70, 32, 16}, features, DType::f32, 6);
  flash_forward(c.params());
  Tensor change = influence_for(c, 40, 70);
  weight_influence(c.params(), params_of(c, 40, 70, change));
  for (int64_t h = 0; h < 2; ++h) {
    EXPECT_TRUE(std::isfinite(change.at(0, h, 0, 0)));
    // Every |E| is at most max |g - g'| <= 2 |d_out| |v|, beside the rounding that epsilon lets through.
    EXPECT_LE(change.at(0, h, 0, 0), 40 * 70 * 2 * 100.0);
  }
}

TEST(WeightInfluence, ThreadsChangeNothing) {
  FlashFeatures features;
  features.mask = Causal{};
  FlashCase c({2, 4, 2, 2, 300, 300, 32, 32}, features, DType::f32, 6);
  flash_forward(c.params());
  const int threads = num_threads();
  Tensor one = influence_for(c, 64, 64), many = influence_for(c, 64, 64);
  set_num_threads(1);
  weight_influence(c.params(), params_of(c, 64, 64, one));
  set_num_threads(7);
  weight_influence(c.params(), params_of(c, 64, 64, many));
  set_num_threads(threads);
  EXPECT_TRUE(one.same_bits(many));
}

TEST(WeightInfluence, BadInputIsNamed) {
  FlashCase c({1, 2, 1, 1, 20, 30, 8, 8}, {}, DType::f32, 1);
  flash_forward(c.params());
  const Tensor to = influence_for(c, 16, 16);
  const auto message = [&](const auto& spoil) -> std::string {
    FlashParams p = c.params();
    WeightInfluence in = params_of(c, 16, 16, to);
    spoil(p, in);
    try {
      weight_influence(p, in);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([](auto&, auto&) {}), "nothing");
  EXPECT_EQ(message([](auto&, auto& in) { in.key_block = 15; }), "nothing");
  EXPECT_EQ(message([](auto&, auto& in) { in.key_block = 10; }),
            "weight_influence: the influence is [1, 2, 2, 2]; [1, 2, 2, 3] is accepted");
  EXPECT_EQ(message([](auto&, auto& in) { in.query_block = 0; }),
            "weight_influence: blocks of 0 x 16; at least 1 x 1 is accepted");
  EXPECT_EQ(message([](auto& p, auto&) { p.lse = {}; }), "weight_influence: the forward's lse is missing");
  EXPECT_EQ(message([](auto& p, auto&) {
              p.dropout = {0.5, 1};
            }),
            "weight_influence: weights with a multiplier or dropout are not accepted");
  EXPECT_EQ(message([](auto&, auto& in) { in.d_out.size[2] = 19; }),
            "weight_influence: d_out is [1, 2, 19, 8]; [1, 2, 20, 8] is accepted");
  EXPECT_EQ(message([](auto&, auto& in) { in.epsilon = NAN; }),
            "weight_influence: epsilon is nan; a number of at least 0 is accepted");
}

}  // namespace
}  // namespace heed::testing::weight_influence_test
