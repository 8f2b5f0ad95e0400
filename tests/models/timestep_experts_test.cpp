// The card of layers that serve intervals of time.
#include "heed/models/timestep_experts.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::timestep_experts_test {
namespace {

using test::relative_error;
using torch::Tensor;

TimestepExpertsConfig small(bool residual = true, bool recompute = false) {
  TimestepExpertsConfig c;
  c.tokens = 5, c.channels = 3, c.classes = 2;
  c.dim = 12, c.heads = 3, c.hidden = 16;
  c.layers = 6, c.groups = 2;
  c.residual = residual, c.recompute = recompute;
  return c;
}

TimestepExperts model_of(const TimestepExpertsConfig& config, bool open_gates) {
  torch::manual_seed(1);
  TimestepExperts model(config);
  torch::NoGradGuard no_grad;
  for (auto& entry : model->named_parameters()) {
    torch::manual_seed(int64_t(std::hash<std::string>{}(entry.key()) % 1000));  // the same with and without gates
    const bool gate = entry.key().ends_with("gate");
    if (!gate || open_gates) entry.value().copy_(torch::randn_like(entry.value()) * 0.4);
  }
  model->to(torch::kFloat64);
  return model;
}

struct Inputs {
  Tensor x = torch::randn({4, 5, 3}, torch::kFloat64), times = torch::rand({4}, torch::kFloat64) / 2,
         labels = torch::tensor({0, 1, 1, 0});
};

TEST(TimestepExperts, ClosedGatesAreAPlainModel) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  const Inputs in;
  const auto plain = model_of(small(false), true)->velocity(in.x, in.times, in.labels);
  EXPECT_LT(relative_error(model_of(small(), false)->velocity(in.x, in.times, in.labels), plain), 1e-12);
  EXPECT_GT(relative_error(model_of(small(), true)->velocity(in.x, in.times, in.labels), plain), 1e-3);
}

TEST(TimestepExperts, ScoresMadeAgainAreScoresKept) {
  torch::manual_seed(3);
  const Inputs in;
  auto kept = model_of(small(true, false), true), made = model_of(small(true, true), true);
  const auto a = kept->velocity(in.x, in.times, in.labels), b = made->velocity(in.x, in.times, in.labels);
  EXPECT_LT(relative_error(b, a), 1e-10);
  a.square().sum().backward();
  b.square().sum().backward();
  const auto other = made->named_parameters();
  for (const auto& entry : kept->named_parameters()) {
    if (!entry.value().grad().defined()) continue;
    EXPECT_LT(relative_error(other[entry.key()].grad(), entry.value().grad()), 1e-8) << entry.key();
  }
}

TEST(TimestepExperts, GroupsDivideLayersAndTime) {
  auto model = model_of(small(), true);
  EXPECT_EQ(model->group_of(0), 0);
  EXPECT_EQ(model->group_of(0.4999), 0);
  EXPECT_EQ(model->group_of(0.5), 1);  // a border is the later group's
  EXPECT_EQ(model->group_of(1), 1);
  EXPECT_EQ(model->interval(0).second, model->interval(1).first);
  EXPECT_THROW(model->group_of(1.1), Error);
  torch::manual_seed(4);
  const Inputs in;
  for (const int64_t group : {0, 1}) {
    model->zero_grad();
    model->velocity(in.x, in.times + 0.5 * double(group), in.labels).square().sum().backward();
    const auto own = "group_" + std::to_string(group) + ".";
    int64_t layers = 0;
    for (const auto& entry : model->named_parameters()) {
      const auto& gradient = entry.value().grad();
      const bool touched = gradient.defined() && gradient.abs().max().item<double>() > 0;
      EXPECT_EQ(touched, entry.key().starts_with(own)) << entry.key();
      layers += touched && entry.key().ends_with("qkv.weight");
    }
    EXPECT_EQ(layers, 3);
  }
  EXPECT_THROW(model->velocity(in.x, torch::tensor({0.1, 0.2, 0.6, 0.7}, torch::kFloat64), in.labels), Error);
  EXPECT_THROW(model->velocity(in.x, in.times), Error);
  auto odd = small();
  odd.groups = 4;
  EXPECT_THROW(TimestepExperts{odd}, Error);
}

TEST(TimestepExperts, AnExactFieldNeedsOneStep) {
  torch::manual_seed(5);
  const auto x0 = torch::randn({2, 3}), x1 = torch::randn({2, 3});
  for (const int64_t steps : {1, 3, 8})
    EXPECT_LT(relative_error(euler([&](const Tensor&, double) { return x1 - x0; }, x0, steps), x1), 1e-5);
  EXPECT_THROW(euler([&](const Tensor& x, double) { return x; }, x0, 0), Error);
}

/// Two tokens that are always the same two numbers are learned.
TEST(TimestepExperts, LearnsWhereNoiseShouldGo) {
  torch::manual_seed(6);
  auto config = small();
  config.tokens = 2, config.channels = 1, config.classes = 0, config.layers = 4;
  TimestepExperts model(config);
  const auto target = torch::tensor({2.0f, -1.0f}).view({1, 2, 1});
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(1e-2));
  for (int step = 0; step < 300; ++step) {
    adam.zero_grad();
    model->loss(target.expand({32, 2, 1})).backward();
    adam.step();
  }
  const auto samples = model->sample(64, 8);
  EXPECT_LT((samples.mean(0) - target[0]).abs().max().item<double>(), 0.4);
  EXPECT_LT(samples.std(0).max().item<double>(), 0.6);  // of the noise: 1
}

}  // namespace
}  // namespace heed::timestep_experts_test
