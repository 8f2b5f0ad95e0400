// A sum of dilated convolutions is one convolution.
#include "heed/nn/dilated_conv.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::nn::dilated_conv_test {
namespace {

TEST(DilatedConv, BranchesAreOneKernel) {
  torch::manual_seed(1);
  for (const int64_t size : {3, 5, 7, 9, 11, 13, 15, 17}) {
    DilatedConv conv(4, size);
    conv->to(torch::kFloat64);
    torch::NoGradGuard no_grad;
    for (auto& entry : conv->named_parameters()) entry.value().add_(torch::randn_like(entry.value()) * 0.3);
    // Statistics that are not those of a fresh norm.
    for (int64_t step = 0; step < 3; ++step) conv(torch::randn({2, 19 * 21, 4}, torch::kFloat64) + 1, 19, 21);
    conv->eval();
    const auto x = torch::randn({2, 19 * 21, 4}, torch::kFloat64);
    EXPECT_LT(test::relative_error(conv(x, 19, 21), conv->branches(x, 19, 21)), 1e-12) << size;
    EXPECT_EQ(conv->merged().first.sizes(), (std::vector<int64_t>{4, 1, size, size}));
  }
}

TEST(DilatedConv, ReachIsThatOfTheLargestKernel) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  DilatedConv conv(1, 7);
  conv->eval();
  auto x = torch::zeros({1, 15 * 15, 1});
  const auto before = conv(x, 15, 15);
  x[0][7 * 15 + 7] = 1;
  const auto change = (conv(x, 15, 15) - before).abs().view({15, 15}) > 0;
  auto expected = torch::zeros({15, 15}, torch::kBool);
  expected.narrow(0, 4, 7).narrow(1, 4, 7).fill_(true);
  EXPECT_TRUE(torch::equal(change, expected));
  EXPECT_THROW(DilatedConv(1, 6), Error);
  EXPECT_THROW(DilatedConv(1, 19), Error);
}

}  // namespace
}  // namespace heed::nn::dilated_conv_test
