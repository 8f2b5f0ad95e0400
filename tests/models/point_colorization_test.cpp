// The card of colour hints on a grey image.
#include "heed/models/point_colorization.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/nn/patches.h"
#include "heed/train/task_batch.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::point_colorization_test {
namespace {

using torch::Tensor;

VisionSpec spec_of() {
  auto spec = test::vision_spec(2, 16, 20);
  spec.channels = 4;
  spec.patch = 4;
  spec.labels = 32;
  spec.dense = true;
  return spec;
}

PointColorization model_of(ColorizationHead head) {
  torch::manual_seed(1);
  PointColorization model(spec_of(), ColorizationConfig{head, true});
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  return model;
}

TEST(PointColorization, ColoursOutsideOfHintsAreNotSeen) {
  torch::NoGradGuard no_grad;
  auto model = model_of(ColorizationHead::convolution);
  auto pixels = torch::randn({2, 4, 16, 20});
  auto mask = torch::zeros({16, 20});
  mask.narrow(0, 4, 2).narrow(1, 6, 2).fill_(1);
  pixels.select(1, 3).copy_(mask.expand({2, 16, 20}));
  const auto before = model->states(pixels);
  auto hidden = pixels.clone();
  hidden.narrow(1, 1, 2).add_((1 - mask) * 3);
  EXPECT_TRUE(torch::equal(model->states(hidden), before));
  auto shown = pixels.clone();
  shown.narrow(1, 1, 2).add_(mask * 3);
  EXPECT_FALSE(torch::equal(model->states(shown), before));
  EXPECT_LE(before.abs().max().item<double>(), 1);
}

TEST(PointColorization, HeadsSeeTheirNeighbours) {
  torch::NoGradGuard no_grad;
  for (const auto head : {ColorizationHead::linear, ColorizationHead::convolution, ColorizationHead::attention}) {
    auto model = model_of(head);
    const auto tokens = torch::randn({1, 20, 16});
    auto moved = tokens.clone();
    moved[0][2 * 5 + 2].add_(1);
    const auto change = (model->paint(moved) - model->paint(tokens)).abs().amax({0, 2}).view({4, 5}) > 0;
    auto expected = torch::zeros({4, 5}, torch::kBool);
    if (head == ColorizationHead::linear)
      expected[2][2] = true;
    else
      expected.narrow(0, 1, 3).narrow(1, 1, 3).fill_(true);
    EXPECT_TRUE(torch::equal(change, expected)) << int(head);
    // A corner has no more than three neighbours.
    moved = tokens.clone();
    moved[0][0].add_(1);
    const auto corner = (model->paint(moved) - model->paint(tokens)).abs().amax({0, 2}).view({4, 5}) > 0;
    EXPECT_EQ(corner.sum().item<int64_t>(), head == ColorizationHead::linear ? 1 : 4) << int(head);
  }
}

TEST(PointColorization, TheConvolutionSeesMirroredBorders) {
  torch::NoGradGuard no_grad;
  auto model = model_of(ColorizationHead::convolution);
  const auto tokens = torch::randn({2, 20, 16});
  const auto image = tokens.view({2, 4, 5, 16}).permute({0, 3, 1, 2});
  const auto p = model->named_parameters();
  const auto expected =
      torch::tanh(torch::conv2d(torch::reflection_pad2d(image, {1, 1, 1, 1}), p["head.weight"], p["head.bias"]));
  EXPECT_LT(test::relative_error(model->paint(tokens), expected.flatten(2).transpose(1, 2)), 1e-6);
  // A single row has nothing to be mirrored but itself.
  auto spec = spec_of();
  spec.image_height = 4;
  EXPECT_TRUE(test::all_finite(PointColorization(spec, ColorizationConfig{})->states(torch::randn({1, 4, 4, 20}))));
}

/// Where nothing is hinted colours say nothing, and what is given is not written to.
TEST(PointColorization, WithoutHintsColoursHaveNoEffect) {
  torch::NoGradGuard no_grad;
  auto model = model_of(ColorizationHead::linear);
  auto pixels = torch::randn({2, 4, 16, 20});
  pixels.select(1, 3).zero_();
  auto other = pixels.clone();
  other.narrow(1, 1, 2).normal_();
  const auto given = other.clone();
  EXPECT_TRUE(torch::equal(model->states(other), model->states(pixels)));
  EXPECT_TRUE(torch::equal(other, given));
}

/// Where every pixel is shown, its colours can be copied.
TEST(PointColorization, HintsEverywhereAreCopied) {
  torch::manual_seed(2);
  const auto task = tasks::make_task("colorization", {{"side", 8}});
  const auto batch = train::task_batch(*task, tasks::Split::train, 0, 8);
  const auto colours = nn::from_patches(batch.targets, 2, 4, 4);
  const auto shown = torch::cat({batch.inputs.narrow(1, 0, 1), colours, torch::ones({8, 1, 8, 8})}, 1);
  auto spec = spec_of();
  spec.image_height = spec.image_width = 8;
  PointColorization model(spec, ColorizationConfig{});
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(3e-3));
  const auto error = [&] { return (model->states(shown) - batch.targets).square().mean(); };
  const double before = error().item<double>();
  for (int step = 0; step < 400; ++step) {
    adam.zero_grad();
    error().backward();
    adam.step();
  }
  EXPECT_LT(error().item<double>(), 0.02 * before);
}

TEST(PointColorization, WrongSizesAreNamed) {
  auto spec = spec_of();
  spec.channels = 3;
  EXPECT_THROW(PointColorization(spec, ColorizationConfig{}), Error);
  spec = spec_of();
  spec.labels = 10;
  EXPECT_THROW(PointColorization(spec, ColorizationConfig{}), Error);
}

}  // namespace
}  // namespace heed::point_colorization_test
