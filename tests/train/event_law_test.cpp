// The law of the next event: a density, with the gradients that training needs.
#include "train/event_law.h"

#include <gtest/gtest.h>

#include "support/torch_support.h"

namespace heed::train::event_law_test {
namespace {

TEST(EventLaw, IsADensityOverTimesAndMarks) {
  torch::manual_seed(3);
  const auto parameters = torch::randn({1, event_law_width(3)});
  // The integral over log times, in steps of 0.002 from e^-12 to e^12.
  const auto log_times = torch::arange(-12, 12, 0.002, torch::kFloat64);
  const auto n = log_times.numel();
  const auto law = event_likelihood(parameters.expand({n, -1}), log_times.exp().to(torch::kFloat32),
                                    torch::zeros({n}, torch::kInt64));
  EXPECT_NEAR((law.time.to(torch::kFloat64) + log_times).exp().sum().item<double>() * 0.002, 1, 1e-3);
  const auto marks = event_likelihood(parameters.expand({3, -1}), torch::ones({3}), torch::arange(3));
  EXPECT_NEAR(marks.mark.exp().sum().item<double>(), 1, 1e-5);
  EXPECT_EQ(marks.mark.argmax().item<int64_t>(), mark_scores(parameters).argmax().item<int64_t>());
}

TEST(EventLaw, OfOneComponentIsTheLogNormal) {
  auto parameters = torch::zeros({1, event_law_width(2)});
  const int64_t components = (event_law_width(2) - 2) / 3;
  parameters.slice(1, components, 2 * components).fill_(0.5);       // means
  parameters.slice(1, 2 * components, 3 * components).fill_(-0.7);  // logarithms of deviations
  const double t = 2.5, sigma = std::exp(-0.7), z = (std::log(t) - 0.5) / sigma;
  const auto law = event_likelihood(parameters, torch::full({1}, t, torch::kFloat32), torch::zeros({1}, torch::kInt64));
  EXPECT_NEAR(law.time.item<double>(), -0.5 * z * z - std::log(t * sigma * std::sqrt(2 * M_PI)), 1e-5);
  EXPECT_NEAR(law.mark.item<double>(), std::log(0.5), 1e-6);
}

TEST(EventLaw, GradientsAreFiniteAtTheEndsOfTime) {
  auto parameters = (torch::randn({3, event_law_width(4)}) * 3).requires_grad_();
  const auto law = event_likelihood(parameters, torch::tensor({0.0f, 1e-6f, 1e6f}), torch::tensor({0, 1, 3}));
  (law.time + law.mark).sum().backward();
  EXPECT_TRUE(test::all_finite(law.time));
  EXPECT_TRUE(test::all_finite(parameters.grad()));
}

}  // namespace
}  // namespace heed::train::event_law_test
