// Norms over what of an image is no padding.
#include "heed/nn/shown_norm.h"

#include <gtest/gtest.h>

#include "heed/nn/dilated_conv.h"
#include "support/torch_support.h"

namespace heed::nn::shown_norm_test {
namespace {

using test::relative_error;
using torch::Tensor;

template <class Norm>
void draw(Norm& norm) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : norm->parameters()) parameter.normal_();
  norm->to(torch::kFloat64);
}

TEST(ShownNorm, BatchesAreOfShownRows) {
  torch::manual_seed(1);
  torch::nn::BatchNorm1d norm(4), other(4);
  draw(norm);
  torch::NoGradGuard no_grad;
  for (const auto& entry : norm->named_parameters()) other->named_parameters()[entry.key()].copy_(entry.value());
  other->to(torch::kFloat64);
  const auto x = torch::randn({2, 3, 5, 4}, torch::kFloat64) * 3 + 1;
  auto hidden = torch::zeros({2, 3, 5}, torch::kBool);
  hidden[0].select(1, 4).fill_(true);
  hidden[1][0].fill_(true);
  const auto out = norm_of_shown(norm, x, hidden);
  const auto rows = hidden.logical_not().flatten().nonzero().squeeze(1);
  const auto expected = other(x.view({-1, 4}).index_select(0, rows));
  EXPECT_LT(relative_error(out.view({-1, 4}).index_select(0, rows), expected), 1e-12);
  EXPECT_EQ(out.masked_select(hidden.unsqueeze(3)).abs().max().item<double>(), 0);
  EXPECT_LT(relative_error(norm->running_mean, other->running_mean), 1e-12);
  EXPECT_LT(relative_error(norm_of_shown(norm, x, {}), other(x.view({-1, 4})).view(x.sizes())), 1e-12);
  EXPECT_EQ(norm_of_shown(norm, x, torch::ones_like(hidden)).abs().max().item<double>(), 0);
}

TEST(ShownNorm, GroupsAreOfShownPlaces) {
  torch::manual_seed(2);
  torch::nn::GroupNorm norm(torch::nn::GroupNormOptions(2, 6));
  draw(norm);
  const auto x = torch::randn({2, 6, 7}, torch::kFloat64) * 3 + 1;
  auto hidden = torch::zeros({2, 7}, torch::kBool);
  hidden[1].narrow(0, 4, 3).fill_(true);
  const auto out = norm_of_shown(norm, x, hidden);
  EXPECT_LT(relative_error(out[0], norm(x)[0]), 1e-12);
  EXPECT_LT(relative_error(out[1].narrow(1, 0, 4), norm(x.narrow(0, 1, 1).narrow(2, 0, 4))[0]), 1e-12);
  EXPECT_EQ(out[1].narrow(1, 4, 3).abs().max().item<double>(), 0);
  EXPECT_TRUE(torch::equal(norm_of_shown(norm, x, {}), norm(x)));
  EXPECT_EQ(norm_of_shown(norm, x, torch::ones_like(hidden)).abs().max().item<double>(), 0);
}

/// In training, padding below and on the right of an image is as if it were not there.
TEST(ShownNorm, DilatedConvolutionsDoNotCountPadding) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  DilatedConv conv(3, 7);
  conv->to(torch::kFloat64);
  const auto image = torch::randn({2, 5, 6, 3}, torch::kFloat64);
  const auto wide = torch::constant_pad_nd(image, {0, 0, 0, 2, 0, 3});
  const auto hidden = torch::constant_pad_nd(torch::zeros({2, 5, 6}), {0, 2, 0, 3}, 1).to(torch::kBool);
  const auto padded = conv(wide.flatten(1, 2), 8, 8, hidden.flatten(1)).view({2, 8, 8, 3});
  EXPECT_LT(relative_error(padded.narrow(1, 0, 5).narrow(2, 0, 6).flatten(1, 2), conv(image.flatten(1, 2), 5, 6)),
            1e-12);
}

}  // namespace
}  // namespace heed::nn::shown_norm_test
