// The discriminator of images from noise, its wavelets and its penalty.
#include "heed/models/style_discriminator.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/models/style_generator.h"
#include "heed/nn/wavelet.h"
#include "support/gradient_check.h"

namespace heed::style_discriminator_test {
namespace {

using test::relative_error;
using torch::Tensor;

StyleDiscriminator model_of(std::vector<int64_t> dims, int64_t colours) {
  torch::manual_seed(1);
  StyleDiscriminator model(StyleDiscriminatorConfig{std::move(dims), colours});
  torch::NoGradGuard no_grad;
  for (auto& entry : model->named_parameters())
    if (entry.key().ends_with("bias")) entry.value().normal_(0, 0.3);
  model->to(torch::kFloat64);
  return model;
}

TEST(Haar, BandsAreSumsAndDifferencesOfFourPixels) {
  torch::manual_seed(2);
  const auto image = torch::randn({2, 3, 6, 4}, torch::kFloat64);
  const auto bands = nn::haar_bands(image);
  ASSERT_EQ(bands.sizes(), (std::vector<int64_t>{2, 12, 3, 2}));
  const double signs[4][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {1, 1, -1, -1}, {1, -1, -1, 1}};
  for (int64_t band = 0; band < 4; ++band)
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t i = 0; i < 3; ++i)
        for (int64_t j = 0; j < 2; ++j) {
          double sum = 0;
          for (int64_t p = 0; p < 4; ++p)
            sum += signs[band][p] / 2 * image[1][c][2 * i + p / 2][2 * j + p % 2].item<double>();
          EXPECT_NEAR(bands[1][3 * band + c][i][j].item<double>(), sum, 1e-12);
        }
  EXPECT_LT(relative_error(nn::from_haar_bands(bands), image), 1e-14);
  EXPECT_NEAR(bands.square().sum().item<double>() / image.square().sum().item<double>(), 1, 1e-12);
  EXPECT_THROW(nn::haar_bands(torch::zeros({1, 1, 3, 4})), Error);
  EXPECT_THROW(nn::from_haar_bands(torch::zeros({1, 6, 2, 2})), Error);
}

/// One resolution, layer by layer from the parameters.
TEST(StyleDiscriminator, IsWhatTheFormulaSays) {
  torch::NoGradGuard no_grad;
  auto model = model_of({5, 6}, 2);
  ASSERT_EQ(model->config().side(), 16);
  const auto p = model->named_parameters();
  const auto conv = [&](const std::string& name, const Tensor& x) {
    const auto& w = p[name + ".weight"];
    const auto y = torch::conv2d(x, w, {}, 1, w.size(2) / 2) / std::sqrt(double(w[0].numel())) +
                   p[name + ".bias"].view({1, -1, 1, 1});
    return torch::where(y > 0, y, 0.2 * y) * std::sqrt(2.0);
  };
  const auto images = torch::randn({3, 2, 16, 16}, torch::kFloat64);
  const auto halved = [](const Tensor& t) { return t.unflatten(3, {-1, 2}).unflatten(2, {-1, 2}).mean({3, 5}); };
  auto x = conv("resolution_0_read", nn::haar_bands(images));
  x = halved(conv("resolution_0_widen", conv("resolution_0_mix", x)));
  x = x + conv("resolution_1_read", nn::haar_bands(halved(images)));
  x = conv("resolution_1_widen", conv("resolution_1_mix", x));
  const auto spread = (x - x.mean(0, true)).square().mean(0).add(1e-8).sqrt().mean();
  x = conv("last", torch::cat({x, torch::ones({3, 1, 4, 4}, torch::kFloat64) * spread}, 1));
  x = conv("hidden", x.reshape({3, 96, 1, 1})).view({3, 6});
  EXPECT_LT(relative_error(model->forward(images), torch::mv(x, p["answer"][0]) / std::sqrt(6.0)), 1e-12);
}

TEST(StyleDiscriminator, GradientsReachImagesAndAllParameters) {
  auto model = model_of({4}, 2);
  const auto images = torch::randn({2, 2, 8, 8}, torch::kFloat64).requires_grad_();
  std::vector<Tensor> inputs{images};
  for (auto& parameter : model->parameters()) inputs.push_back(parameter);
  test::expect_gradient([&] { return model->forward(images); }, inputs);
}

TEST(R1, IsTheSquaredSlopeOfEveryImage) {
  torch::manual_seed(3);
  const auto real = torch::randn({3, 2, 4, 4}, torch::kFloat64);
  // D(x) = a |x|^2 / 2 has the slope a x.
  const auto a = torch::full({}, 1.5, torch::kFloat64).requires_grad_();
  const auto penalty = r1_penalty([&](const Tensor& x) { return a * x.square().flatten(1).sum(1) / 2; }, real);
  const double squares = real.square().sum().item<double>() / 3;
  EXPECT_NEAR(penalty.item<double>(), 1.5 * 1.5 * squares, 1e-10);
  EXPECT_NEAR(torch::autograd::grad({penalty}, {a})[0].item<double>(), 2 * 1.5 * squares, 1e-10);
  // Of the network: against differences of its answers, and with gradients for its weights.
  auto model = model_of({3}, 1);
  const auto images = torch::randn({2, 1, 8, 8}, torch::kFloat64);
  const auto direct = r1_penalty([&](const Tensor& x) { return model->forward(x); }, images);
  double sum = 0;
  constexpr double kStep = 1e-6;
  for (int64_t at = 0; at < images.numel(); ++at) {
    auto moved = images.clone();
    const auto all = [&](double by) {
      torch::NoGradGuard no_grad;
      moved.view({-1})[at] = images.view({-1})[at] + by;
      return model->forward(moved).sum().item<double>();
    };
    sum += std::pow((all(kStep) - all(-kStep)) / (2 * kStep), 2) / 2;
  }
  EXPECT_NEAR(direct.item<double>() / sum, 1, 1e-5);
  std::vector<Tensor> inputs;
  for (auto& entry : model->named_parameters())
    if (entry.key().ends_with("weight")) inputs.push_back(entry.value());
  test::expect_gradient([&] { return r1_penalty([&](const Tensor& x) { return model->forward(x); }, images); }, inputs);
}

TEST(Adversaries, LossesAreThoseOfTheLogisticGame) {
  const auto real = torch::tensor({0.0, 2.0}, torch::kFloat64), fake = torch::tensor({-1.0, 0.5}, torch::kFloat64);
  const auto softplus = [](double x) { return std::log1p(std::exp(x)); };
  EXPECT_NEAR(discriminator_loss(real, fake).item<double>(),
              (softplus(-1) + softplus(0.5) + softplus(0) + softplus(-2)) / 2, 1e-12);
  EXPECT_NEAR(generator_loss(fake).item<double>(), (softplus(1) + softplus(-0.5)) / 2, 1e-12);
}

/// A generator that plays against it comes to paint what it has not been shown: bright images with a dark left half.
TEST(Adversaries, AGeneratorLearnsFromThem) {
  torch::manual_seed(4);
  StyleGeneratorConfig config;
  config.latent = 4, config.style = 8, config.mapping = 1, config.dims = {8, 8}, config.heads = 2, config.window = 4,
  config.colours = 1;
  StyleGenerator generator(config);
  StyleDiscriminator discriminator(StyleDiscriminatorConfig{{8}, 1});
  constexpr int64_t kBatch = 16;
  const auto real = [] {
    auto images = torch::ones({kBatch, 1, 8, 8}) + torch::randn({kBatch, 1, 8, 8}) * 0.1;
    images.slice(3, 0, 4) -= 2;
    return images;
  };
  const auto adam = [](const torch::nn::Module& module) {
    return torch::optim::Adam(module.parameters(), torch::optim::AdamOptions(3e-3).betas({0, 0.99}));
  };
  auto paints = adam(*generator), judges = adam(*discriminator);
  const auto painted = [&] { return generator->forward(torch::randn({kBatch, 4})); };
  const auto apart = [&] {
    torch::NoGradGuard no_grad;
    return (painted().mean(0) - real().mean(0)).square().mean().item<double>();
  };
  const double before = apart();
  for (int64_t step = 0; step < 250; ++step) {
    const auto images = real();
    judges.zero_grad();
    const auto told = discriminator_loss(discriminator->forward(images), discriminator->forward(painted().detach()));
    (told + 0.5 * r1_penalty([&](const Tensor& x) { return discriminator->forward(x); }, images)).backward();
    judges.step();
    paints.zero_grad();
    generator_loss(discriminator->forward(painted())).backward();
    paints.step();
  }
  EXPECT_LT(apart(), 0.3 * before);
}

TEST(StyleDiscriminator, WrongSizesAreNamed) {
  const auto make = [](std::vector<int64_t> dims, int64_t colours) {
    return StyleDiscriminator(StyleDiscriminatorConfig{std::move(dims), colours});
  };
  EXPECT_THROW(make({}, 3), Error);
  EXPECT_THROW(make({0}, 3), Error);
  EXPECT_THROW(make({4}, 0), Error);
  EXPECT_THROW(make({4}, 3)->forward(torch::zeros({1, 3, 16, 16})), Error);
}

}  // namespace
}  // namespace heed::style_discriminator_test
