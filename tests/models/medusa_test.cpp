// The card of one body with gates for every stage.
#include "heed/models/medusa.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::medusa_test {
namespace {

using test::relative_error;
using torch::Tensor;

PyramidConfig stages() { return PyramidConfig::growing(test::vision_spec(1, 16, 20), 3); }

/// The weights and biases of the last layer of every head.
void set_heads(Medusa& model, double weight, double bias) {
  for (auto& entry : model->named_parameters())
    for (const char* stage : {"0", "1", "2"}) {
      if (entry.key() == std::string("head_") + stage + ".weight") entry.value().fill_(weight);
      if (entry.key() == std::string("head_") + stage + ".bias") entry.value().fill_(bias);
    }
}

TEST(Medusa, OpenGatesLeaveThePyramidAlone) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  Medusa model(stages(), MedusaConfig{});
  const auto pixels = torch::randn({2, 1, 16, 20});
  for (const auto& gate : model->gates(pixels)) {
    EXPECT_GT(gate.min().item<double>(), 0);
    EXPECT_LT(gate.max().item<double>(), 1);
  }
  const auto plain = model->pyramid->states(pixels);
  EXPECT_GT(relative_error(model->states(pixels), plain), 1e-3);
  set_heads(model, 0, 30);
  EXPECT_LT(relative_error(model->states(pixels), plain), 1e-5);
}

/// The body learns from all heads: its gradient is the sum of what each alone would give.
TEST(Medusa, TheBodyHearsAllHeads) {
  torch::manual_seed(2);
  Medusa model(stages(), MedusaConfig{});
  model->to(torch::kFloat64);
  const auto pixels = torch::randn({2, 1, 16, 20}, torch::kFloat64);
  const auto gates = model->gates(pixels);
  ASSERT_EQ(model->bodies.size(), 1u);
  const auto weights = model->bodies[0]->parameters();
  const auto features = model->pyramid->features(pixels, 0, nullptr, gates);
  const auto whole = torch::autograd::grad({model->pyramid->read(features).sum()}, weights, {}, true);
  std::vector<Tensor> sum;
  for (size_t kept = 0; kept < gates.size(); ++kept) {
    std::vector<Tensor> one;
    for (size_t s = 0; s < gates.size(); ++s) one.push_back(s == kept ? gates[s] : gates[s].detach());
    const auto alone = model->pyramid->read(model->pyramid->features(pixels, 0, nullptr, one));
    const auto part = torch::autograd::grad({alone.sum()}, weights, {}, true);
    for (size_t i = 0; i < part.size(); ++i)
      if (kept == 0)
        sum.push_back(part[i]);
      else
        sum[i] = sum[i] + part[i];
  }
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_LT(relative_error(sum[i], whole[i]), 1e-9) << i;
}

/// A gate by the formula: the body's map at the size of the stage's grid, two convolutions, a sigmoid. The first grid
/// here has a cell a pixel, where the map stays as it is.
TEST(Medusa, GatesAreMadeFromTheMap) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  auto config = stages();
  config.patch = 1;
  for (const bool residual : {false, true}) {
    MedusaConfig heads;
    heads.residual = residual;
    Medusa model(config, heads);
    const auto p = model->named_parameters();
    const auto pixels = torch::randn({2, 1, 16, 20});
    const auto map = model->bodies[0](pixels);
    const auto gates = model->gates(pixels);
    const std::vector<std::vector<int64_t>> grids{{16, 20}, {8, 10}, {4, 5}};
    for (size_t s = 0; s < 3; ++s) {
      // Halves are means of 2 x 2 pixels, quarters of the 2 x 2 in the middle of 4 x 4: bilinear, without corners.
      auto resized = map;
      if (s == 1) resized = torch::avg_pool2d(map, {2, 2});
      if (s == 2) resized = torch::avg_pool2d(map.narrow(2, 1, 14).narrow(3, 1, 18), {2, 2}, {4, 4});
      const auto number = std::to_string(s);
      const auto conv = [&](const std::string& name, const Tensor& x) {
        return torch::conv2d(x, p[name + number + ".weight"], p[name + number + ".bias"], 1, 1);
      };
      const auto gate = torch::sigmoid(conv("head_", torch::relu(conv("head_hidden_", resized))));
      const auto expected = gate.flatten(2).transpose(1, 2) + double(residual);
      ASSERT_EQ(gates[s].size(1), grids[s][0] * grids[s][1]);
      EXPECT_LT(relative_error(gates[s], expected), 1e-5) << s;
    }
    // Where the map is the same everywhere, so are the gates, but for borders that zeros surround.
    for (auto& entry : model->named_parameters())
      if (entry.key() == "body_0.out.weight") entry.value().zero_();
    const auto flat = model->gates(pixels)[0].view({2, 16, 20}).narrow(1, 2, 12).narrow(2, 2, 16);
    EXPECT_LT((flat - flat[0][0][0]).abs().max().item<double>(), 1e-6);
  }
}

TEST(Medusa, BodiesSeeTheImageAndMayBeTheStagesOwn) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  AttentionBody body(3, 4, 4);
  const auto map = body(torch::randn({2, 3, 9, 13}));
  EXPECT_EQ(map.sizes(), (std::vector<int64_t>{2, 1, 9, 13}));
  EXPECT_GT(map.min().item<double>(), 0);
  EXPECT_LT(map.max().item<double>(), 1);
  MedusaConfig own;
  own.shared = false;
  EXPECT_EQ(Medusa(stages(), own)->bodies.size(), 3u);
  own.residual = true;
  EXPECT_GT(Medusa(stages(), own)->gates(torch::randn({1, 1, 16, 20}))[0].min().item<double>(), 1);
  EXPECT_THROW(AttentionBody(3, 4, 0), Error);
}

}  // namespace
}  // namespace heed::medusa_test
