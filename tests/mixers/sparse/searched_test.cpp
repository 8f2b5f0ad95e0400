// Mixers that search for their keys: hip_attention and superlinear_attention.
#include <gtest/gtest.h>

#include <set>

#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/jump_plan.h"
#include "heed/ops/key_search.h"
#include "heed/ops/span_attention.h"
#include "support/mixer_support.h"
#include "support/torch_support.h"

namespace heed::searched_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

constexpr double kTolerance = test::kForwardTolerance;

CoreInput input(int64_t n, int64_t m, int64_t heads = 4, int64_t kv_heads = 2, int64_t size = 8) {
  torch::manual_seed(n + m);
  return {torch::randn({2, heads, n, size}), torch::randn({2, kv_heads, m, size}),
          torch::randn({2, kv_heads, m, size})};
}

std::shared_ptr<TokenMixer> make(const char* name, json config, const CoreInput& in) {
  config.update({{"dim", in.q.size(1) * in.q.size(3)}, {"heads", in.q.size(1)}, {"kv_heads", in.k.size(1)}});
  auto mixer = make_mixer(name, config);
  mixer->eval();
  return mixer;
}

Tensor core(const char* name, const json& config, const CoreInput& in) {
  torch::NoGradGuard no_grad;
  return make(name, config, in)->mix(in);
}

Tensor dense(const CoreInput& in) {
  AttentionOptions options;
  options.mask = Causal{};
  return attention(in.q, in.k, in.v, options);
}

TEST(Hip, ABudgetForAllIsDense) {
  for (const int64_t n : {1, 37, 50}) {
    const auto in = input(n, 50);
    for (const int64_t budget : {50, 64})
      EXPECT_LT(relative_error(core("hip_attention", {{"budget", budget}, {"query_block", 8}}, in), dense(in)),
                kTolerance);
  }
}

/// Keys that each query sees, bool [N, M] of one head: where the gradient of v is not 0.
Tensor seen_keys(const char* name, const json& config, CoreInput in, int64_t head) {
  in.v.requires_grad_();
  const auto out = make(name, config, in)->mix(in);
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < in.q.size(2); ++i)
    rows.push_back(torch::autograd::grad({out.select(1, head).select(1, i).select(0, 0).sum()}, {in.v}, {}, true)[0]
                       .select(0, 0)
                       .abs()
                       .sum(at::IntArrayRef{0, 2}) > 0);
  return torch::stack(rows);
}

TEST(Hip, AQueryReadsItsBudgetSinksAndWindow) {
  const auto in = input(64, 64, 1, 1);
  const json config{{"budget", 8}, {"query_block", 4}, {"key_block", 2}, {"sinks", 3}, {"window", 5}};
  const auto seen = seen_keys("hip_attention", config, in, 0);
  const auto before = torch::ones({64, 64}, torch::kBool).tril();
  EXPECT_FALSE((seen & ~before).any().item<bool>());
  const auto window = torch::ones({64, 64}, torch::kBool).tril() & torch::ones({64, 64}, torch::kBool).triu(-4);
  EXPECT_TRUE((seen | ~window).all().item<bool>());
  EXPECT_TRUE((seen.slice(1, 0, 3) | ~before.slice(1, 0, 3)).all().item<bool>());
  // Found keys, sinks in whole blocks, and the windows of four queries in whole blocks.
  EXPECT_LE(seen.sum(1).max().item<int64_t>(), 8 + 4 + 5 + 3 + 1);
}

TEST(Hip, QueriesWithinTheBudgetAreDenseWhoeverSharesTheirBlock) {
  // Blocks of 8 queries, a budget of 20 keys: the block of queries 16 to 23 has both kinds.
  const auto in = input(50, 50);
  const json config{{"budget", 20}, {"query_block", 8}, {"sinks", 1}, {"window", 2}};
  const auto out = core("hip_attention", config, in), all = dense(in);
  EXPECT_LT(relative_error(out.slice(2, 0, 20), all.slice(2, 0, 20)), kTolerance);
  EXPECT_GT(relative_error(out.slice(2, 30), all.slice(2, 30)), 1e-2);
  // Behind others, too: queries 15 to 22, from a block's begin.
  auto behind = input(8, 23);
  EXPECT_LT(relative_error(core("hip_attention", config, behind).slice(2, 0, 5), dense(behind).slice(2, 0, 5)),
            kTolerance);
}

TEST(Hip, SomeLayersSeeAll) {
  test::expect_dense_layers("hip_attention", {{"budget", 4}, {"window", 2}, {"sinks", 0}});
}

TEST(Hip, AFewStepsReadWhatOneSearchFound) {
  torch::manual_seed(10);
  torch::NoGradGuard no_grad;
  json config{{"dim", 16}, {"heads", 2}, {"kv_heads", 1}, {"budget", 8}, {"window", 4}, {"sinks", 1}};
  auto every = make_mixer("hip_attention", config);
  config["reuse"] = 3;
  auto third = make_mixer("hip_attention", config);
  every->eval(), third->eval();
  for (auto& p : every->parameters()) p.normal_(0, 0.6);
  test::copy_weights(*third, *every);
  const auto x = torch::randn({1, 64, 16});
  auto a = every->make_state(1), b = third->make_state(1);
  const auto feed = [&](TokenMixer& mixer, MixerState& state, int64_t begin, int64_t end) {
    return mixer.forward({.x = x.slice(1, begin, end)}, &state);
  };
  EXPECT_TRUE(torch::equal(feed(*every, *a, 0, 40), feed(*third, *b, 0, 40)));
  int64_t differ = 0;
  for (int64_t t = 40; t < 58; ++t) {
    const bool equal = torch::equal(feed(*every, *a, t, t + 1), feed(*third, *b, t, t + 1));
    EXPECT_TRUE(equal || (t - 40) % 3 != 0) << t;  // every third step searches
    differ += !equal;
  }
  EXPECT_GT(differ, 3);
  // A chunk, or a cut, makes the next step search.
  feed(*every, *a, 58, 60), feed(*third, *b, 58, 60);
  EXPECT_TRUE(torch::equal(feed(*every, *a, 60, 61), feed(*third, *b, 60, 61)));
  auto copy = b->clone();
  EXPECT_EQ(copy->bytes(), b->bytes());
  EXPECT_TRUE(torch::equal(feed(*third, *copy, 61, 62), feed(*third, *b, 61, 62)));
  a->truncate(50), b->truncate(50);
  EXPECT_TRUE(torch::equal(feed(*every, *a, 50, 51), feed(*third, *b, 50, 51)));
  EXPECT_THROW(make_mixer("hip_attention", {{"window", 4}, {"reuse", 5}}), Error);
}

TEST(Hip, TheSearchFindsANeedleWhereKeysAreAlike) {
  // The mass that the chosen keys hold: the search over keys that drift slowly must beat as many evenly spread ones.
  torch::manual_seed(3);
  constexpr int64_t kKeys = 1024, kBudget = 64;
  const auto drift = torch::randn({1, 1, kKeys, 16}).cumsum(2);
  const auto k = drift / drift.norm(2, 3, true) * 6;
  const auto q = torch::randn({1, 1, 1, 16});
  const auto weights = torch::softmax(torch::matmul(q, k.transpose(2, 3)) / 4, 3).flatten();
  const auto found = ops::tree_search(q, k, {1, 2, kBudget / 2, 1}).flatten().to(torch::kInt64);
  const double mass = (weights.index({found * 2}) + weights.index({found * 2 + 1})).sum().item<double>();
  const auto even = torch::arange(0, kKeys, kKeys / kBudget);
  const double best = std::get<0>(weights.topk(kBudget)).sum().item<double>();
  EXPECT_GT(mass, 0.8 * best);
  EXPECT_GT(mass, 2 * weights.index({even}).sum().item<double>());
}

TEST(JumpPlan, AnchorsAndWindow) {
  for (const int64_t skip : {0, 1, 3, 8}) {
    const nn::JumpPlan plan{0.5, 0.5, skip, 2, 0};
    EXPECT_EQ(plan.window(), (skip + 1) * (skip + 1) - 1);
    for (const int64_t t : {0, 1, 5, 99, 100, 120, 121, 3000}) {
      const auto roots = static_cast<int64_t>(std::floor(std::sqrt(double(t + 1))));
      EXPECT_EQ(int64_t(plan.distances(t + 1).size()), std::max<int64_t>(0, roots - skip)) << t;
    }
  }
  const nn::JumpPlan released{0.55, 0.55, 65, 3, 1};
  EXPECT_EQ(released.window(), 2032);
}

/// Whether window and candidate spans of every token below `tokens` hold all keys up to it.
bool covers(const nn::JumpPlan& plan, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t border = std::max<int64_t>(0, t - plan.window() + 1);
    int64_t reached = border;  // keys from here on are covered; anchors go backwards
    for (const int64_t distance : plan.distances(t + 1)) {
      const int64_t anchor = t - distance, end = std::min(border, anchor + plan.reach_ahead(t) + 1);
      if (end >= reached) reached = std::min(reached, std::max<int64_t>(0, anchor - plan.reach_back(t)));
    }
    if (reached > 0) return false;
  }
  return true;
}

TEST(JumpPlan, NoKeyIsOutOfReach) {
  for (const int64_t skip : {0, 1, 3}) EXPECT_TRUE(covers({0.5, 0.5, skip, 2, 0}, 3000)) << skip;
  EXPECT_TRUE(covers({0.5, 0.5, 0, 1, 0}, 7));
  EXPECT_FALSE(covers({0.5, 0.5, 0, 1, 0}, 8));
}

TEST(Superlinear, AWindowForAllIsDense) {
  const auto in = input(48, 48);
  EXPECT_LT(relative_error(core("superlinear_attention", {{"skip", 6}}, in), dense(in)), kTolerance);
}

TEST(Superlinear, IsTheFormula) {
  struct Setting {
    nn::JumpPlan plan;
    int64_t anchors;
  };
  // The last one has the released powers.
  for (const auto& [plan, anchors] :
       {Setting{{0.5, 0.5, 1, 1, 1}, 2}, Setting{{0.5, 0.5, 0, 2, 0}, 3}, Setting{{0.55, 0.55, 2, 3, 1}, 3}}) {
    auto in = input(60, 60, 2, 1);
    for (auto* x : {&in.q, &in.k, &in.v}) *x = x->to(torch::kFloat64);
    const auto out = core("superlinear_attention",
                          {{"power", plan.power},
                           {"span_power", plan.span_power},
                           {"skip", plan.skip},
                           {"back", plan.back},
                           {"ahead", plan.ahead},
                           {"anchors", anchors}},
                          in);
    const auto distances = plan.distances(60);
    for (int64_t h = 0; h < 2; ++h)
      for (const int64_t t : {0, 2, 3, 4, 9, 24, 39, 59}) {
        const auto q = in.q[0][h][t], k = in.k[0][0], v = in.v[0][0];
        std::vector<std::pair<double, int64_t>> scores;
        for (const int64_t d : distances)
          if (d <= t) scores.emplace_back(-torch::dot(q, k[t - d]).item<double>(), t - d);
        std::sort(scores.begin(), scores.end());
        const int64_t border = std::max<int64_t>(0, t - plan.window() + 1);
        const auto attend = [&](int64_t begin, int64_t end) {
          const auto index = torch::cat({torch::arange(begin, std::max(begin, end)), torch::arange(border, t + 1)});
          const auto logits = torch::matmul(k.index({index}), q) / std::sqrt(8.0);
          return torch::matmul(torch::softmax(logits, 0), v.index({index}));
        };
        auto expected = torch::zeros({8}, torch::kFloat64), total = torch::zeros({1}, torch::kFloat64);
        if (scores.empty() && plan.window() > 0) expected = attend(0, 0), total += 1;
        for (size_t r = 0; r < std::min<size_t>(size_t(anchors), scores.size()); ++r) {
          const int64_t a = scores[r].second;
          const auto weight = std::exp(-scores[r].first + scores[0].first);
          expected = expected + weight * attend(std::max<int64_t>(0, a - plan.reach_back(t)),
                                                std::min(border, a + plan.reach_ahead(t) + 1));
          total = total + weight;
        }
        EXPECT_LT(relative_error(out[0][h][t], expected / total), 1e-12) << "head " << h << ", token " << t;
      }
  }
}

TEST(Superlinear, TheSearchLearnsThroughItsGatesAlone) {
  MixerInput in;
  torch::manual_seed(5);
  in.x = torch::randn({1, 40, 32});
  for (const int64_t anchors : {1, 2}) {
    auto mixer = make_mixer("superlinear_attention", {{"dim", 32}, {"heads", 4}, {"anchors", anchors}});
    mixer->forward(in).square().sum().backward();
    const double grad = mixer->named_parameters()["q_search_proj.weight"].grad().norm().item<double>();
    if (anchors == 1)
      EXPECT_EQ(grad, 0);
    else
      EXPECT_GT(grad, 0);
  }
}

TEST(SpanAttentionOp, NarrowTypesAreWidenedAndSecondGradientsAreRefused) {
  const auto in = input(6, 9);
  const auto begins = torch::zeros({2, 4, 6, 1}, torch::kInt32), ends = torch::full({2, 4, 6, 1}, 9, torch::kInt32);
  const auto whole = attention(in.q, in.k, in.v);
  EXPECT_LT(relative_error(ops::span_attention(in.q, in.k, in.v, begins, ends).out.squeeze(3), whole), kTolerance);
  const auto half = ops::span_attention(in.q.to(torch::kBFloat16), in.k.to(torch::kBFloat16), in.v.to(torch::kBFloat16),
                                        begins, ends);
  EXPECT_EQ(half.out.scalar_type(), torch::kBFloat16);
  EXPECT_LT(relative_error(half.out.squeeze(3), whole), 2e-2);
  const auto q = in.q.clone().requires_grad_();
  const auto first =
      torch::autograd::grad({ops::span_attention(q, in.k, in.v, begins, ends).out.sum()}, {q}, {}, true, true)[0];
  EXPECT_THROW(first.sum().backward(), Error);
}

TEST(Searched, WhatTheyRefuse) {
  EXPECT_THROW(make_mixer("hip_attention", {{"causal", false}}), Error);
  EXPECT_THROW(make_mixer("superlinear_attention", {{"causal", false}}), Error);
  EXPECT_THROW(make_mixer("superlinear_attention", {{"softcap", 5.0}}), Error);
  EXPECT_THROW(make_mixer("superlinear_attention", {{"power", 1.5}}), Error);
  EXPECT_THROW(make_mixer("hip_attention", {{"budget", 0}}), Error);
}

}  // namespace
}  // namespace heed::searched_test
