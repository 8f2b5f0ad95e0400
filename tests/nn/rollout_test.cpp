// Attention rollout: rows of probabilities, by whole matrices or a row at a time.
#include "heed/nn/rollout.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::nn::rollout_test {
namespace {

std::vector<torch::Tensor> random_maps(int64_t layers) {
  std::vector<torch::Tensor> maps;
  for (int64_t l = 0; l < layers; ++l) maps.push_back(torch::softmax(torch::randn({2, 5, 5}, torch::kFloat64) * 2, 2));
  return maps;
}

TEST(Rollout, RowsSumToOne) {
  torch::manual_seed(1);
  const auto flow = rollout(random_maps(3));
  EXPECT_LT(test::relative_error(flow.sum(2), torch::ones({2, 5})), 1e-12);
  EXPECT_GE(flow.min().item<double>(), 0);
}

TEST(Rollout, IdentityStays) {
  const auto eye = torch::eye(5, torch::kFloat64).expand({2, 5, 5}).contiguous();
  EXPECT_TRUE(torch::equal(rollout({eye, eye}), eye));
}

TEST(Rollout, TheLastLayerComesFirst) {
  torch::manual_seed(2);
  const auto maps = random_maps(2);
  const auto eye = torch::eye(5, torch::kFloat64);
  const auto expected = torch::matmul((maps[1] + eye) / 2, (maps[0] + eye) / 2);
  EXPECT_LT(test::relative_error(rollout(maps), expected), 1e-12);
}

TEST(Rollout, ARowIsARow) {
  torch::manual_seed(3);
  const auto maps = random_maps(4);
  for (const int64_t row : {0, 3})
    EXPECT_LT(test::relative_error(rollout_row(maps, row), rollout(maps).select(1, row)), 1e-12);
  EXPECT_THROW(rollout_row(maps, 5), Error);
  EXPECT_THROW(rollout({}), Error);
}

TEST(Rollout, WeightsAreMeansOverHeads) {
  torch::manual_seed(4);
  const auto q = torch::randn({1, 4, 6, 8}, torch::kFloat64), k = torch::randn({1, 2, 6, 8}, torch::kFloat64);
  torch::Tensor sum = torch::zeros({1, 6, 6}, torch::kFloat64);
  for (int64_t h = 0; h < 4; ++h)
    sum += torch::softmax(torch::matmul(q.select(1, h), k.select(1, h / 2).transpose(1, 2)) / std::sqrt(8.0), 2);
  EXPECT_LT(test::relative_error(mean_weights(q, k), sum / 4), 1e-12);
}

}  // namespace
}  // namespace heed::nn::rollout_test
