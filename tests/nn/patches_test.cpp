// Images as patches, and a loss of their pixels.
#include "heed/nn/patches.h"

#include <gtest/gtest.h>

#include "heed/nn/huber.h"

namespace heed::nn::patches_test {
namespace {

TEST(Patches, ComeTogetherAgain) {
  torch::manual_seed(1);
  const auto image = torch::randn({2, 3, 8, 15});
  const auto patches = to_patches(image, 4, 5);
  ASSERT_EQ(patches.sizes(), (std::vector<int64_t>{2, 6, 3, 4, 5}));
  EXPECT_TRUE(torch::equal(patches[1][4], image[1].narrow(1, 4, 4).narrow(2, 5, 5)));
  EXPECT_TRUE(torch::equal(from_patches(patches, 2, 4, 5), image));
  EXPECT_TRUE(torch::equal(from_patches(patches.flatten(2), 2, 4, 5), image));
}

TEST(Huber, IsQuadraticThenLinear) {
  auto error = torch::tensor({-3.0, -0.5, 0.0, 0.25, 0.5, 2.0}, torch::kFloat64).requires_grad_();
  const auto loss = huber(error, 0.5);
  const auto expected = torch::tensor({2.75, 0.25, 0.0, 0.0625, 0.25, 1.75}, torch::kFloat64);
  EXPECT_TRUE(torch::allclose(loss, expected));
  const auto slope = torch::autograd::grad({loss.sum()}, {error})[0];
  EXPECT_TRUE(torch::allclose(slope, torch::tensor({-1.0, -1.0, 0.0, 0.5, 1.0, 1.0}, torch::kFloat64)));
}

}  // namespace
}  // namespace heed::nn::patches_test
