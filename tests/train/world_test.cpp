// A world model of the cue grid, and an actor that learns in it.
#include "heed/train/world.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::train::world_test {
namespace {

using test::relative_error;
using torch::Tensor;

WorldModelConfig small(int64_t layers) {
  WorldModelConfig config;
  config.categoricals = config.classes = 6;
  config.dim = 32;
  config.hidden = 48;
  config.layers = layers;
  config.mixer_config = {{"state_dim", 16}, {"head_dim", 16}};
  config.reward_bins = 31;
  config.reward_range = 2;
  return config;
}

tasks::CueGridConfig small_world() {
  tasks::CueGridConfig config;
  config.side = 3;
  config.limit = 12;
  return config;
}

TEST(LambdaReturns, AreTheirRecursion) {
  torch::manual_seed(1);
  const auto rewards = torch::randn({2, 5}, torch::kFloat64), goes_on = torch::rand({2, 5}, torch::kFloat64),
             values = torch::randn({2, 6}, torch::kFloat64);
  // lambda 0: one step and the value there; lambda 1: the whole path.
  EXPECT_LT(relative_error(lambda_returns(rewards, goes_on, values, 0.9, 0),
                           rewards + 0.9 * goes_on * values.narrow(1, 1, 5)),
            1e-12);
  const auto all = lambda_returns(rewards, goes_on, values, 0.9, 1);
  auto expected = torch::zeros({2}, torch::kFloat64), reach = torch::ones({2}, torch::kFloat64);
  for (int64_t t = 0; t < 5; ++t) {
    expected = expected + reach * rewards.select(1, t);
    reach = reach * 0.9 * goes_on.select(1, t);
  }
  EXPECT_LT(relative_error(all.select(1, 0), expected + reach * values.select(1, 5)), 1e-12);
}

struct Setting {
  WorldModel model{nullptr};
  ActorCritic agent{nullptr};
  Replay::Contexts contexts;
};

Setting setting() {
  Setting s;
  const tasks::CueGrid world(small_world());
  s.model = world_model(world, small(2), 3);
  s.agent = ActorCritic(s.model->config(), ActorCriticOptions());
  tasks::CueGrid grid(small_world());
  Replay replay(grid.observation_size(), 60);
  bool end = true;
  for (uint64_t t = 0; t < 60; ++t) {
    const bool start = end;
    if (start) grid.begin(tasks::Split::train, t);
    const auto seen = grid.observation();
    const auto outcome = grid.step(int64_t(t * 7 % 4));
    replay.add(seen, int64_t(t * 7 % 4), outcome.reward, start, outcome.end);
    end = outcome.end;
  }
  s.contexts = replay.contexts(5, 6, 1, 4);
  return s;
}

// What is imagined step by step is what the model makes of the whole rollout.
TEST(Imagine, StepsEqualTheWholeSequence) {
  auto s = setting();
  torch::NoGradGuard no_grad;
  const auto imagined = imagine(s.model, s.agent, s.contexts.steps, s.contexts.padding, 9, 11);
  const auto codes = nn::straight_through_sample(s.model->encode(s.contexts.steps.observations), 11);
  const auto all = torch::cat({codes.narrow(1, 0, 5), imagined.z.narrow(1, 0, 9)}, 1);
  const auto actions = torch::cat({s.contexts.steps.actions.narrow(1, 0, 5), imagined.actions}, 1);
  const auto padding = torch::constant_pad_nd(s.contexts.padding.narrow(1, 0, 5), {0, 9}, false);
  const auto d = s.model->sequence(all, actions, {}, nullptr, padding);
  EXPECT_LT(relative_error(imagined.d.narrow(1, 1, 9), d.narrow(1, 5, 9)), test::kForwardTolerance);
  EXPECT_LT(relative_error(imagined.rewards, s.model->reward(d.narrow(1, 5, 9))), 1e-3);
  EXPECT_TRUE(torch::equal(imagined.z.select(1, 0), codes.select(1, 5)));
  EXPECT_FALSE(imagined.d.requires_grad() || imagined.z.requires_grad());
  EXPECT_GT(s.contexts.padding.sum().item<int64_t>(), 0);
}

TEST(Imagine, IsAFunctionOfItsSeed) {
  auto s = setting();
  const auto run = [&](uint64_t seed) {
    return imagine(s.model, s.agent, s.contexts.steps, s.contexts.padding, 5, seed);
  };
  EXPECT_TRUE(torch::equal(run(3).z, run(3).z));
  EXPECT_TRUE(torch::equal(run(3).actions, run(3).actions));
  EXPECT_FALSE(torch::equal(run(3).z, run(4).z));
}

TEST(ActorCritic, LearnsFromRewardsOfItsActions) {
  auto s = setting();
  auto imagined = imagine(s.model, s.agent, s.contexts.steps, s.contexts.padding, 8, 1);
  torch::optim::Adam adam(s.agent->parameters(), torch::optim::AdamOptions(1e-2));
  const auto chance = [&] {
    torch::NoGradGuard no_grad;
    return torch::softmax(s.agent->act(imagined.z, imagined.d), -1).select(-1, 2).mean().item<double>();
  };
  const double before = chance();
  for (int i = 0; i < 40; ++i) {
    // Action 2 is the one that pays.
    imagined.rewards = (imagined.actions == 2).to(torch::kFloat32);
    const auto loss = actor_critic_loss(s.agent, imagined);
    adam.zero_grad();
    loss.backward();
    adam.step();
    imagined = imagine(s.model, s.agent, s.contexts.steps, s.contexts.padding, 8, uint64_t(i));
  }
  EXPECT_GT(chance(), before + 0.3);
  for (auto& parameter : s.model->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

// The reward hangs on a cue that was shown once: a model that remembers tells it, one that does not can't.
TEST(World, MemoryForetellsWhatTheCueDecides) {
  const auto world = small_world();
  WorldOptions options;
  options.updates = 800;
  options.experience = options.random_steps = 12000;
  options.batch = 16;
  options.window = 24;
  options.learning_rate = 2e-3;
  options.actor = false;
  WorldScore scores[2];
  for (const int64_t layers : {0, 1}) {
    auto model = world_model(tasks::CueGrid(world), small(layers), 1);
    ActorCritic none{nullptr};
    int64_t updates = 0;
    train_world(model, none, world, options, [&](int64_t update, const WorldLoss&) { EXPECT_EQ(update, updates++); });
    EXPECT_EQ(updates, 800);
    scores[layers] = score_world(model, world, 100);
  }
  EXPECT_EQ(scores[0].still, scores[1].still);
  EXPECT_LT(scores[1].observation, 0.3 * scores[1].still);
  EXPECT_LT(scores[1].reward, 0.75 * scores[1].guess);
  EXPECT_GT(scores[0].reward, 0.9 * scores[0].guess);
  EXPECT_GT(scores[1].end, 0.5);
}

TEST(World, WrongNumbersAreNamed) {
  auto model = world_model(tasks::CueGrid(small_world()), small(1), 1);
  ActorCritic none{nullptr};
  WorldOptions options;
  EXPECT_THROW(train_world(model, none, small_world(), options), Error);
  options.actor = false;
  options.random_steps = 10;
  EXPECT_THROW(train_world(model, none, small_world(), options), Error);
  EXPECT_THROW(score_world(model, small_world(), 0), Error);
}

}  // namespace
}  // namespace heed::train::world_test
