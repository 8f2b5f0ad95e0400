// The U-Net of lamamba's card: silent at first, told by time and class, and better at noise than a guess of 0.
#include "heed/models/lamamba_denoiser.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::lamamba_denoiser_test {
namespace {

using test::relative_error;
using torch::Tensor;

LaMambaDenoiserConfig small() {
  LaMambaDenoiserConfig c;
  c.height = 7, c.width = 6, c.channels = 2, c.dim = 8, c.heads = 2, c.scales = 2, c.depth = 1, c.classes = 3;
  c.block = {{"window", 3}, {"mlp_ratio", 2}};
  return c;
}

LaMambaDenoiser model(const LaMambaDenoiserConfig& config = small()) {
  LaMambaDenoiser model(config);
  model->eval();
  return model;
}

/// Parameters away from their first values, many of which are 0.
void draw(LaMambaDenoiser& model) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
}

const Tensor kTimes = torch::tensor({3.0, 700.0}), kLabels = torch::tensor({0, 2}, torch::kInt64);

TEST(LaMambaDenoiser, SaysNothingAtFirst) {
  torch::manual_seed(1);
  auto net = model();
  const auto out = net(torch::randn({2, 2, 7, 6}), kTimes, kLabels);
  EXPECT_EQ(out.sizes(), (std::vector<int64_t>{2, 4, 7, 6}));
  EXPECT_EQ(out.abs().max().item<double>(), 0);
  auto config = small();
  config.learned_variance = false;
  EXPECT_EQ(model(config)(torch::randn({2, 2, 7, 6}), kTimes, kLabels).size(1), 2);
}

TEST(LaMambaDenoiser, TheWayUpHasOneBlockMore) {
  auto config = small();
  config.depth = 2, config.scales = 3;
  std::map<std::string, int64_t> blocks;
  for (const auto& entry : model(config)->named_parameters())
    if (entry.key().ends_with("condition_proj.bias")) ++blocks[entry.key().substr(0, 6)];
  const std::map<std::string, int64_t> expected{
      {"stop_0", 2}, {"stop_1", 2}, {"stop_2", 2}, {"stop_3", 3}, {"stop_4", 3}};
  EXPECT_EQ(blocks, expected);
}

TEST(LaMambaDenoiser, TimeAndClassAreHeardAndImagesAreAlone) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  auto net = model();
  draw(net);
  const auto images = torch::randn({2, 2, 7, 6});
  const auto out = net(images, kTimes, kLabels);
  EXPECT_GT(relative_error(net(images, kTimes + 50, kLabels), out), 1e-3);
  EXPECT_GT(relative_error(net(images, kTimes, torch::tensor({1, 3}, torch::kInt64)), out), 1e-3);
  for (int64_t b = 0; b < 2; ++b) {
    const auto alone = net(images.narrow(0, b, 1), kTimes.narrow(0, b, 1), kLabels.narrow(0, b, 1));
    EXPECT_LT(relative_error(alone, out.narrow(0, b, 1)), test::kForwardTolerance);
  }
}

TEST(LaMambaDenoiser, ClassesAreHiddenInTrainingAlone) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  auto config = small();
  config.class_dropout = 1;
  auto net = model(config);
  draw(net);
  const auto images = torch::randn({2, 2, 7, 6}), none = torch::full({2}, 3, torch::kInt64);
  const auto with = net(images, kTimes, kLabels), without = net(images, kTimes, none);
  EXPECT_GT(relative_error(with, without), 1e-3);
  net->train();
  EXPECT_TRUE(torch::equal(net(images, kTimes, kLabels), without));
  // The seed decides whose.
  config.class_dropout = 0.5;
  auto some = model(config);
  draw(some);
  some->train();
  const auto first = some(images, kTimes, kLabels, 1);
  EXPECT_TRUE(torch::equal(some(images, kTimes, kLabels, 1), first));
  bool differs = false;
  for (uint64_t seed = 2; seed < 20; ++seed)
    differs = differs || !torch::equal(some(images, kTimes, kLabels, seed), first);
  EXPECT_TRUE(differs);
}

TEST(LaMambaDenoiser, EveryParameterLearns) {
  torch::manual_seed(4);
  auto net = model();
  draw(net);
  net(torch::randn({2, 2, 7, 6}), kTimes, kLabels).square().sum().backward();
  for (const auto& entry : net->named_parameters()) {
    ASSERT_TRUE(entry.value().grad().defined()) << entry.key();
    EXPECT_TRUE(test::all_finite(entry.value().grad())) << entry.key();
  }
}

// Images of one level a class under noise: what is left of the noise's variance after a short training.
TEST(LaMambaDenoiser, LearnsToTellNoiseFromClasses) {
  torch::manual_seed(5);
  auto config = small();
  config.learned_variance = false, config.class_dropout = 0;
  auto net = model(config);
  torch::optim::Adam adam(net->parameters(), torch::optim::AdamOptions(1e-2));
  double first = 0, last = 0;
  for (int64_t step = 0; step < 50; ++step) {
    const auto labels = torch::randint(3, {8}, torch::kInt64), noise = torch::randn({8, 2, 7, 6});
    const auto levels = (labels - 1).to(torch::kFloat32).view({8, 1, 1, 1}) * 2;
    adam.zero_grad();
    const auto loss = (net(levels + noise, torch::zeros({8}), labels) - noise).square().mean();
    loss.backward();
    adam.step();
    if (step == 0) first = loss.item<double>();
    if (step >= 40) last += loss.item<double>() / 10;
  }
  EXPECT_NEAR(first, 1, 0.2);
  EXPECT_LT(last, 0.3);
}

TEST(LaMambaDenoiser, WrongInputIsNamed) {
  auto net = model();
  const auto images = torch::randn({2, 2, 7, 6});
  EXPECT_THROW(net(images.narrow(2, 0, 6), kTimes, kLabels), Error);
  EXPECT_THROW(net(images, kTimes.narrow(0, 0, 1), kLabels), Error);
  EXPECT_THROW(net(images, kTimes, kLabels + 2), Error);
  auto config = small();
  config.dim = 6;
  EXPECT_THROW(model(config), Error);
  config = small();
  config.scales = 0;
  EXPECT_THROW(model(config), Error);
}

}  // namespace
}  // namespace heed::lamamba_denoiser_test
