// The card of ia_red2: the interpreter, what dropping means, and a policy gradient that is the exact one on average.
#include "heed/nn/ia_red2.h"

#include <cmath>

#include "heed/models/reduced_blocks.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::ia_red2_test {
namespace {

using nn::ReductionInput;
using test::relative_error;
using torch::Tensor;

TEST(IaRed2, ScoresAreMeansOfHeadsSigmoids) {
  test::seed_torch(1);
  torch::NoGradGuard no_grad;
  nn::IaRed2 policy({.dim = 12, .heads = 3});
  for (auto& parameter : policy.parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  const auto p = policy.named_parameters();
  const auto x = torch::randn({2, 7, 12});
  const auto q = torch::matmul(p["query.weight"], p["policy"]) + p["query.bias"];
  const auto k = torch::matmul(x, p["key.weight"].t()) + p["key.bias"];
  auto expected = torch::zeros({2, 7});
  for (int64_t h = 0; h < 3; ++h)
    expected += torch::sigmoid((k.slice(2, 4 * h, 4 * h + 4) * q.slice(0, 4 * h, 4 * h + 4)).sum(2)) / 3;
  EXPECT_LT(relative_error(policy.scores(x), expected), 1e-6);
}

TEST(IaRed2, StartsNearTheScoreAskedFor) {
  test::seed_torch(2);
  torch::NoGradGuard no_grad;
  for (const double first : {0.2, 0.95}) {
    nn::IaRed2 policy({.dim = 32, .heads = 4, .first_score = first});
    EXPECT_NEAR(policy.scores(torch::randn({4, 50, 32})).mean().item<double>(), first, 0.02);
  }
}

TEST(IaRed2, AThresholdOfZeroKeepsAll) {
  test::seed_torch(3);
  nn::IaRed2 policy({.dim = 8, .heads = 2, .threshold = 0});
  policy.eval();
  const auto x = torch::randn({2, 9, 8});
  const auto map = policy.map({.x = x, .leading = 1});
  EXPECT_TRUE(torch::equal(map.reduce(x), x));
  EXPECT_FALSE(map.hidden.defined());
}

TEST(IaRed2, ATransformerOfWhichNothingIsDroppedIsItself) {
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  torch::nn::Module owner;
  TransformerConfig config;
  config.dim = 16, config.heads = config.kv_heads = 2, config.head_dim = 8, config.hidden = 24;
  config.layers.resize(3);
  auto blocks = make_blocks(owner, config, false, torch::kFloat64);
  for (auto& parameter : owner.parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  const auto x = torch::randn({2, 9, 16}, torch::kFloat64);
  const auto with = [&](double threshold) {
    std::vector<std::shared_ptr<nn::TokenReducer>> reducers(3);
    for (const size_t layer : {1, 2}) {
      reducers[layer] = std::make_shared<nn::IaRed2>(nn::IaRed2Config{.dim = 16, .heads = 2, .threshold = threshold});
      reducers[layer]->to(torch::kFloat64);
      reducers[layer]->eval();
    }
    return run_reduced_blocks(blocks, {.x = x}, reducers, 1);
  };
  const auto all = with(0), few = with(1);
  EXPECT_TRUE(torch::equal(all.x, run_blocks(blocks, {.x = x})));
  // The other end: the class token is left alone.
  EXPECT_EQ(few.tokens, (std::vector<int64_t>{9, 1, 1}));
}

TEST(IaRed2, DroppedTokensHaveNoInfluenceAndRaggedItemsAreThemselves) {
  test::seed_torch(4);
  auto mixer = test::drawn_mixer("dense", {{"dim", 16}, {"heads", 2}, {"causal", false}}, torch::kFloat64);
  auto x = torch::randn({3, 10, 16}, torch::kFloat64).requires_grad_();
  const auto stays = (torch::rand({3, 10}) < 0.5) | (torch::arange(10) == 0);
  const auto map = nn::ragged_tokens(stays, torch::ones({3, 10}));
  ASSERT_EQ(map.tokens, stays.sum(1).max().item<int64_t>());
  MixerInput in{.x = map.reduce(x)};
  in.key_padding = map.hidden;
  const auto together = map.restore(mixer->forward(in));
  const auto packed = nn::pack_tokens(map.reduce(x), map.hidden);
  MixerInput row{.x = packed.x};
  row.cu_seqlens = packed.cu_seqlens;
  const auto ragged = map.restore(nn::unpack_tokens(mixer->forward(row), map.hidden));
  for (int64_t b = 0; b < 3; ++b) {
    const auto kept = stays[b].nonzero().squeeze(1);
    const auto alone = mixer->forward({.x = x[b].index_select(0, kept).unsqueeze(0)})[0];
    EXPECT_LT(relative_error(together[b].index_select(0, kept), alone), 1e-12);
    EXPECT_LT(relative_error(ragged[b].index_select(0, kept), alone), 1e-12);
  }
  const auto grad = torch::autograd::grad({together.sum()}, {x})[0];
  EXPECT_EQ(grad.masked_fill(stays.unsqueeze(2), 0).abs().max().item<double>(), 0);
  EXPECT_EQ(together.masked_fill(stays.unsqueeze(2), 0).abs().max().item<double>(), 0);
}

TEST(IaRed2, TheRewardIsTheTable) {
  const auto share = torch::tensor({1.0, 0.5, 0.5, 0.0}), right = torch::tensor({1, 1, 0, 1}).to(torch::kBool);
  EXPECT_TRUE(torch::allclose(nn::redundancy_reward(share, right), torch::tensor({0.0, 0.75, -1.0, 1.0})));
  EXPECT_TRUE(torch::allclose(nn::redundancy_reward(share, right, 0.25)[2], torch::tensor(-0.25)));
}

TEST(IaRed2, TheEstimatorIsTheExactGradientOnAverage) {
  // Two tokens; the prediction is right where the first one stays. All four choices can be summed.
  test::seed_torch(5);
  nn::IaRed2 policy({.dim = 4, .heads = 2, .first_score = 0.6});
  policy.to(torch::kFloat64);
  {
    torch::NoGradGuard no_grad;
    for (auto& parameter : policy.parameters()) parameter.add_(torch::randn_like(parameter) * 0.5);
  }
  const auto x = torch::randn({1, 2, 4}, torch::kFloat64);
  const ReductionInput one{.x = x};
  const auto reward_of = [](const Tensor& stays) {
    return nn::redundancy_reward(stays.to(torch::kFloat64).mean(1), stays.select(1, 0));
  };
  const auto parameters = policy.parameters();
  auto parameter = policy.named_parameters()["policy"];
  Tensor exact = torch::zeros_like(parameter);
  for (int64_t choice = 0; choice < 4; ++choice) {
    const auto stays = torch::tensor({{choice & 1, choice >> 1}}).to(torch::kBool);
    const auto chance = nn::policy_log_likelihood(policy.scores(x), stays, one).exp();
    exact += torch::autograd::grad({(reward_of(stays) * chance).sum()}, {parameter})[0];
  }
  constexpr int64_t kSamples = 10000;
  const auto many = x.expand({kSamples, 2, 4}).contiguous();
  ReductionInput in{.x = many};
  in.seed = 11;
  const auto scores = policy.scores(many);
  const auto stays = policy.drawn(scores, in), best = policy.greedy(scores, in);
  const auto likelihood = nn::policy_log_likelihood(scores, stays, in);
  const auto estimate = -torch::autograd::grad({nn::policy_loss(likelihood, reward_of(stays), reward_of(best))},
                                               {parameter}, {}, true)[0];
  // Its spread, from the gradients of the four choices.
  auto spread = torch::zeros_like(parameter);
  for (int64_t choice = 0; choice < 4; ++choice) {
    const auto pick = torch::tensor({{choice & 1, choice >> 1}}).to(torch::kBool);
    const auto log_chance = nn::policy_log_likelihood(policy.scores(x), pick, one);
    const auto grad = torch::autograd::grad({log_chance.sum()}, {parameter})[0];
    const double advantage = (reward_of(pick) - reward_of(best.slice(0, 0, 1))).item<double>();
    spread += log_chance.exp().detach() * (grad * advantage).square();
  }
  const auto deviation = ((spread - exact.square()).clamp_min(0) / double(kSamples)).sqrt();
  EXPECT_TRUE(((estimate - exact).abs() <= 4 * deviation + 1e-9).all().item<bool>()) << estimate << exact << deviation;
}

TEST(IaRed2, APolicyLearnsWhichTokenCounts) {
  test::seed_torch(6);
  nn::IaRed2 policy({.dim = 8, .heads = 2, .first_score = 0.8});
  policy.train();
  torch::optim::Adam optimizer(policy.parameters(), torch::optim::AdamOptions(0.02));
  const auto mark = torch::randn({8});
  // One of six tokens is marked; without it the answer is wrong.
  for (int64_t step = 0; step < 150; ++step) {
    const auto marked = torch::randint(0, 6, {64, 1});
    const auto is_marked = torch::zeros({64, 6}, torch::kBool).scatter_(1, marked, true);
    const auto x = torch::randn({64, 6, 8}) * 0.3 + is_marked.unsqueeze(2) * mark;
    ReductionInput in{.x = x};
    in.seed = uint64_t(step) + 100;
    const auto scores = policy.scores(x);
    const auto stays = policy.drawn(scores, in), best = policy.greedy(scores, in);
    const auto reward = [&](const Tensor& u) {
      return nn::redundancy_reward(u.to(torch::kFloat32).mean(1), u.gather(1, marked).squeeze(1));
    };
    optimizer.zero_grad();
    nn::policy_loss(nn::policy_log_likelihood(scores, stays, in), reward(stays), reward(best)).backward();
    optimizer.step();
  }
  policy.eval();
  const auto marked = torch::arange(60).remainder(6).unsqueeze(1);
  const auto is_marked = torch::zeros({60, 6}, torch::kBool).scatter_(1, marked, true);
  const auto x = torch::randn({60, 6, 8}) * 0.3 + is_marked.unsqueeze(2) * mark;
  const auto stays = policy.greedy(policy.scores(x), {.x = x});
  EXPECT_GT((stays & is_marked).sum().item<int64_t>(), 54);
  EXPECT_LT((stays & is_marked.logical_not()).sum().item<int64_t>(), 60);
}

TEST(IaRed2, BadInputIsNamed) {
  EXPECT_THROW(nn::make_token_reducer("ia_red2", {{"dim", 10}, {"heads", 4}}), Error);
  EXPECT_THROW(nn::make_token_reducer("ia_red2", {{"threshold", 1.5}}), Error);
  EXPECT_THROW(nn::make_token_reducer("ia_red2", {{"dim", 8}})->map({.x = torch::randn({1, 3, 6})}), Error);
}

}  // namespace
}  // namespace heed::ia_red2_test
