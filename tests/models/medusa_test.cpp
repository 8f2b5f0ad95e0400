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
