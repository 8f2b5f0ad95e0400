// The network around context_mixing_conv: an overview whose context reaches the second look.
#include "heed/models/overlock.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::overlock_test {
namespace {

using torch::Tensor;

VisionSpec spec_of() { return test::vision_spec(1, 16, 16); }

Tensor gradient_of_overview(bool context) {
  torch::manual_seed(1);
  OverlockConfig config;
  config.context = context;
  Overlock model(spec_of(), config);
  {
    torch::NoGradGuard no_grad;
    for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.1);
  }
  model->eval();
  model->states(torch::randn({2, 1, 16, 16})).square().sum().backward();
  return model->named_parameters()["overview_embedding.weight"].grad();
}

TEST(Overlock, TheSecondLookIsToldOfTheFirst) {
  EXPECT_GT(gradient_of_overview(true).abs().max().item<double>(), 0);
  const auto without = gradient_of_overview(false);
  EXPECT_TRUE(!without.defined() || without.abs().max().item<double>() == 0);
}

TEST(Overlock, TheOverviewIsJudgedInTraining) {
  OverlockConfig config;
  config.overview_weight = 0.25;
  Overlock model(spec_of(), config);
  const auto pixels = torch::randn({2, 1, 16, 16});
  int64_t judged = 0;
  const auto judge = [&](const Tensor& answers) {
    EXPECT_EQ(answers.sizes(), (std::vector<int64_t>{2, 3}));
    ++judged;
    return torch::full({}, 8.0);
  };
  model->states(pixels);
  EXPECT_EQ(model->training_loss(torch::full({}, 1.0), judge).item<double>(), 3);
  model->eval();
  model->states(pixels);
  EXPECT_EQ(model->training_loss(torch::full({}, 1.0), judge).item<double>(), 1);
  EXPECT_EQ(judged, 1);
  config.depth = 0;
  EXPECT_THROW(Overlock(spec_of(), config), Error);
}

}  // namespace
}  // namespace heed::overlock_test
