// The card of images from noise: styles that steer norms, and two sorts of windows.
#include "heed/models/style_generator.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/gradient_check.h"

namespace heed::style_generator_test {
namespace {

using test::relative_error;
using torch::Tensor;

StyleGeneratorConfig small() {
  StyleGeneratorConfig c;
  c.latent = 6, c.style = 5, c.mapping = 2, c.dims = {8, 8, 4}, c.heads = 2, c.window = 4, c.colours = 2;
  return c;
}

StyleGenerator model_of(const StyleGeneratorConfig& config) {
  torch::manual_seed(1);
  StyleGenerator model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  model->to(torch::kFloat64);
  return model;
}

TEST(AdaptiveInstanceNorm, ChannelsGetTheMeanAndDeviationOfTheStyle) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  nn::AdaptiveInstanceNorm norm(5, 8);
  norm->to(torch::kFloat64);
  const auto w = torch::randn({3, 5}, torch::kFloat64);
  const auto x = torch::randn({3, 40, 8}, torch::kFloat64) * 4 + torch::randn({3, 1, 8}, torch::kFloat64) * 10;
  const auto z = norm(x, w);
  const auto [gamma, beta] = norm->scale_and_shift(w);
  EXPECT_LT((z.mean(1, true) - beta).abs().max().item<double>(), 1e-12);
  EXPECT_LT((z.std(1, false, true) - gamma.abs()).abs().max().item<double>(), 1e-8);
  // What all cells have in common is gone.
  EXPECT_LT(relative_error(norm(x + torch::randn({3, 1, 8}, torch::kFloat64), w), z), 1e-10);
  // Styles begin near gamma = 1 and beta = 0.
  const auto [one, zero] = norm->scale_and_shift(torch::zeros({1, 5}, torch::kFloat64));
  EXPECT_TRUE(torch::equal(one, torch::ones_like(one)) && torch::equal(zero, torch::zeros_like(zero)));
  EXPECT_THROW(norm(x, torch::randn({3, 4}, torch::kFloat64)), Error);
  EXPECT_THROW(norm(x.narrow(2, 0, 7), w), Error);
  EXPECT_THROW(norm(x, w.narrow(0, 0, 2)), Error);
}

TEST(EqualLinear, WeightsAreScaledWhenTheyAreUsed) {
  torch::manual_seed(3);
  nn::EqualLinear linear(400, 300);
  EXPECT_NEAR(linear->weight.std().item<double>(), 1, 5 / std::sqrt(2.0 * 400 * 300));
  const auto x = torch::randn({2, 400});
  EXPECT_LT(relative_error(linear(x), torch::matmul(x, linear->weight.t()) / 20 + linear->bias), 1e-6);
}

TEST(StyleGenerator, PaintsBySizesAndStyles) {
  torch::NoGradGuard no_grad;
  auto model = model_of(small());
  EXPECT_EQ(model->config().side(), 16);
  const auto z = torch::randn({3, 6}, torch::kFloat64);
  const auto images = model->forward(z);
  ASSERT_EQ(images.sizes(), (std::vector<int64_t>{3, 2, 16, 16}));
  for (int64_t b = 0; b < 3; ++b)
    EXPECT_LT(relative_error(model->forward(z.narrow(0, b, 1)), images.narrow(0, b, 1)), 1e-10);
  EXPECT_GT(relative_error(images.narrow(0, 0, 1), images.narrow(0, 1, 1)), 1e-3);
  // The length of the noise says nothing.
  EXPECT_LT(relative_error(model->forward(3 * z), images), 1e-6);
}

/// Two blocks by the formula, from their parameters, and what they paint.
TEST(StyleGenerator, TheFirstResolutionIsWhatTheFormulaSays) {
  torch::NoGradGuard no_grad;
  auto config = small();
  config.dims = {8};
  auto model = model_of(config);
  const auto p = model->named_parameters();
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return torch::linear(x, p[name + ".weight"], p[name + ".bias"]);
  };
  const auto w = torch::randn({2, 5}, torch::kFloat64);
  const auto norm = [&](const std::string& name, const Tensor& x) {
    const auto parts =
        torch::linear(w, p[name + ".map.weight"] / std::sqrt(5.0), p[name + ".map.bias"]).unsqueeze(1).chunk(2, 2);
    return parts[0] * (x - x.mean(1, true)) / torch::sqrt(x.var(1, false, true) + 1e-8) + parts[1];
  };
  auto x = p["first"].expand({2, 16, 8});
  for (const std::string block : {"resolution_0.block_0.", "resolution_0.block_1."}) {
    // Windows as large as the image: both halves of the heads see all of it, each with its own table.
    const auto qkv = linear(block + "attention.qkv", norm(block + "norm", x)).chunk(3, 2);
    std::vector<Tensor> halves;
    for (const int64_t h : {0, 1}) {
      const auto of = [&](size_t i) { return qkv[i].narrow(2, 4 * h, 4); };
      const auto table = p[block + "attention." + (h == 0 ? "still" : "shifted") + ".bias.table"];
      auto bias = torch::empty({16, 16}, torch::kFloat64);
      for (int64_t i = 0; i < 16; ++i)
        for (int64_t j = 0; j < 16; ++j) bias[i][j] = table[0][(i / 4 - j / 4 + 3) * 7 + i % 4 - j % 4 + 3];
      halves.push_back(torch::matmul(torch::softmax(torch::matmul(of(0), of(1).transpose(1, 2)) / 2 + bias, 2), of(2)));
    }
    x = x + linear(block + "attention.o_proj", torch::cat(halves, 2));
    x = x + linear(block + "down", torch::gelu(linear(block + "up", norm(block + "mlp_norm", x))));
  }
  const auto expected = linear("resolution_0.colours", x).transpose(1, 2).view({2, 2, 4, 4});
  EXPECT_LT(relative_error(model->paint(w), expected), 1e-10);
}

TEST(StyleGenerator, GradientsReachNoiseAndAllParameters) {
  auto config = small();
  config.dims = {8, 4};
  auto model = model_of(config);
  const auto z = torch::randn({2, 6}, torch::kFloat64).requires_grad_();
  std::vector<Tensor> inputs{z};
  for (auto& parameter : model->parameters()) inputs.push_back(parameter);
  test::expect_gradient([&] { return model->forward(z); }, inputs);
  // Positions are added from the second resolution on, nothing of them at first.
  for (const auto& entry : StyleGenerator(config)->named_parameters())
    if (entry.key().ends_with("share")) {
      EXPECT_EQ(entry.value().abs().max().item<double>(), 0);
    }
}

TEST(StyleGenerator, LearnsToPaintAnImage) {
  torch::manual_seed(5);
  auto config = small();
  config.dims = {8, 8}, config.colours = 1;
  StyleGenerator model(config);
  const auto z = torch::randn({2, 6});
  // A stripe for one noise, a corner for the other.
  auto images = torch::zeros({2, 1, 8, 8});
  images[0][0].select(1, 3).fill_(1);
  images[1][0].narrow(0, 0, 3).narrow(1, 0, 3).fill_(1);
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(1e-2));
  const auto error = [&] { return (model->forward(z) - images).square().mean(); };
  for (int step = 0; step < 200; ++step) {
    adam.zero_grad();
    error().backward();
    adam.step();
  }
  EXPECT_LT(error().item<double>(), 0.1 * images.var().item<double>());
}

TEST(StyleGenerator, WrongSizesAreNamed) {
  auto config = small();
  config.heads = 3;
  EXPECT_THROW(StyleGenerator{config}, Error);
  config = small();
  config.dims = {};
  EXPECT_THROW(StyleGenerator{config}, Error);
  config.dims = {6};
  EXPECT_THROW(StyleGenerator{config}, Error);
  config = small();
  config.window = 1;
  EXPECT_THROW(StyleGenerator{config}, Error);
  EXPECT_THROW(
      StyleGenerator { small() } -> forward(torch::randn({2, 5})), Error);
}

}  // namespace
}  // namespace heed::style_generator_test
