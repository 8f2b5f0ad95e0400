#include "heed/nn/categorical.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::nn::categorical_test {
namespace {

using test::relative_error;

TEST(StraightThrough, IsOneHotWithTheGradientOfSoftmax) {
  torch::manual_seed(1);
  const auto logits = torch::randn({3, 4, 5}, torch::kFloat64).requires_grad_();
  const auto weights = torch::randn({3, 4, 5}, torch::kFloat64);
  const auto sample = straight_through_sample(logits, 7);
  EXPECT_LT((sample.sum(-1) - 1).abs().max().item<double>(), 1e-12);
  EXPECT_LT((sample.amax(-1) - 1).abs().max().item<double>(), 1e-12);
  const auto through = torch::autograd::grad({(sample * weights).sum()}, {logits})[0];
  const auto soft = torch::autograd::grad({(torch::softmax(logits, -1) * weights).sum()}, {logits})[0];
  EXPECT_LT(relative_error(through, soft), 1e-12);
  EXPECT_TRUE(torch::equal(straight_through_sample(logits, 7), sample));
  EXPECT_FALSE(torch::equal(straight_through_sample(logits, 8), sample));
}

TEST(StraightThrough, DrawsByItsChances) {
  const auto chances = torch::tensor({0.1, 0.6, 0.3}, torch::kFloat64);
  const auto drawn = straight_through_sample(chances.log().expand({20000, 3}), 3).mean(0);
  // Five standard deviations of a share of 20000.
  EXPECT_LT((drawn - chances).abs().max().item<double>(), 5 * std::sqrt(0.25 / 20000));
}

TEST(CategoricalKl, IsZeroForEqualLogitsAndTheSumOtherwise) {
  torch::manual_seed(2);
  const auto a = torch::randn({4, 6}, torch::kFloat64), b = torch::randn({4, 6}, torch::kFloat64);
  EXPECT_LT(categorical_kl(a, a + 3).abs().max().item<double>(), 1e-14);
  const auto p = torch::softmax(a, 1), q = torch::softmax(b, 1);
  EXPECT_LT(relative_error(categorical_kl(a, b), (p * (p / q).log()).sum(1)), 1e-12);
}

TEST(TwoHot, GivesNumbersBack) {
  for (const auto& [bins, range] : {std::pair<int64_t, double>{255, 20}, {2, 3}, {8, 1.5}}) {
    const TwoHot two_hot(bins, range);
    const auto x = symexp(torch::linspace(-range, range, 101, torch::kFloat64));
    const auto weights = two_hot.encode(x);
    EXPECT_LT((weights.sum(-1) - 1).abs().max().item<double>(), 1e-12);
    EXPECT_LE((weights > 0).sum(-1).max().item<int64_t>(), 2);
    EXPECT_LT(relative_error(two_hot.decode(weights.log()), x), 1e-9) << bins;
    // Beyond the range it is the range.
    const auto far = torch::tensor({1e12, -1e12}, torch::kFloat64);
    EXPECT_LT(relative_error(two_hot.decode(two_hot.encode(far).log()), symexp(torch::tensor({range, -range}))), 1e-6);
  }
  EXPECT_LT(relative_error(symlog(symexp(torch::tensor({-3.0, 0.0, 0.5}))), torch::tensor({-3.0, 0.0, 0.5})), 1e-6);
}

TEST(TwoHot, TheLossIsLeastAtTheNumber) {
  const TwoHot two_hot(16, 2);
  const auto x = torch::tensor({0.3, -1.7, 4.0}, torch::kFloat64);
  const auto best = two_hot.encode(x).clamp_min(1e-9).log();
  auto logits = best.clone().requires_grad_();
  const auto grad = torch::autograd::grad({two_hot.loss(logits, x).sum()}, {logits})[0];
  EXPECT_LT(grad.abs().max().item<double>(), 1e-7);
  EXPECT_GT(two_hot.loss(best + torch::randn_like(best), x).sum().item<double>(),
            two_hot.loss(best, x).sum().item<double>());
  EXPECT_THROW(TwoHot(1, 3), Error);
  EXPECT_THROW(TwoHot(8, 0), Error);
}

}  // namespace
}  // namespace heed::nn::categorical_test
