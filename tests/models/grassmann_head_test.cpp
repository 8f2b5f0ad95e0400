// The head of causal_grassmann's card for pairs of texts: its formula, its padding, and that it learns what means hide.
#include "heed/models/grassmann_head.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/gradient_check.h"

namespace heed::grassmann_head_test {
namespace {

using test::kDouble;
using test::relative_error;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

GrassmannHead head(const GrassmannHeadConfig& config) {
  GrassmannHead head(config);
  head->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  for (auto& parameter : head->parameters()) parameter.normal_(0, 0.5);
  return head;
}

TEST(GrassmannHead, IsTheMeanPlaneOfPiecesBesideTheMeans) {
  torch::manual_seed(1);
  torch::NoGradGuard no_grad;
  auto model = head({.dim = 5, .rank = 3, .window = 2, .labels = 3});
  const auto p = model->named_parameters();
  const auto mapped = [&](const std::string& name, const Tensor& x) {
    return torch::mv(p[name + ".weight"], x) + p[name + ".bias"];
  };
  const auto a = torch::randn({1, 5, 5}, kWide), b = torch::randn({1, 4, 5}, kWide);
  const auto pieces = [](const Tensor& x) {
    std::vector<Tensor> pieces;
    for (int64_t at = 0; at < x.size(0); at += 2) pieces.push_back(x.slice(0, at, at + 2).mean(0));
    return pieces;
  };
  auto sum = torch::zeros({5}, kWide);
  for (const auto& s : pieces(a[0]))
    for (const auto& t : pieces(b[0])) {
      const auto u = mapped("reduce", s), v = mapped("reduce", t);
      const auto wedge = torch::outer(u, v) - torch::outer(v, u);
      const auto plane = torch::stack({wedge[0][1], wedge[0][2], wedge[1][2]});
      sum += mapped("lift", plane / plane.norm());
    }
  const auto expected = mapped("classifier", torch::cat({a[0].mean(0), b[0].mean(0), sum / 6}));
  EXPECT_LT(relative_error(model->forward({a, {}}, {b, {}})[0], expected), kDouble);
}

TEST(GrassmannHead, PaddingIsNotSeen) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  auto model = head({.dim = 6, .rank = 4, .window = 3, .labels = 2});
  const auto a = torch::randn({2, 7, 6}, kWide), b = torch::randn({2, 5, 6}, kWide);
  const auto expected = model->forward({a, {}}, {b, {}});
  const auto longer = torch::cat({a, torch::full({2, 6, 6}, 1e3, kWide)}, 1);
  const auto padding = torch::arange(13).ge(7).expand({2, 13});
  EXPECT_LT(relative_error(model->forward({longer, padding}, {b, {}}), expected), kDouble);
  // Of a text that is all padding nothing is left, and nothing of it is NaN.
  EXPECT_TRUE(test::all_finite(model->forward({a, torch::ones({2, 7}, torch::kBool)}, {b, {}})));
}

TEST(GrassmannHead, GradientsReachTheStates) {
  torch::manual_seed(3);
  auto model = head({.dim = 4, .rank = 3, .window = 2, .labels = 2});
  auto inputs = model->parameters();
  const auto a = torch::randn({2, 3, 4}, kWide).requires_grad_(), b = torch::randn({2, 4, 4}, kWide).requires_grad_();
  inputs.push_back(a), inputs.push_back(b);
  test::expect_gradient([&] { return model->forward({a, {}}, {b, {}}); }, inputs);
}

// Which way round the second vector is turned from the first is in no sum of functions of each.
TEST(GrassmannHead, LearnsHowTwoTextsAreTurned) {
  torch::manual_seed(4);
  const auto draw = [](int64_t count) {
    const auto a = torch::randn({count, 1, 2}), b = torch::randn({count, 1, 2});
    const auto turned = a.select(2, 0) * b.select(2, 1) - a.select(2, 1) * b.select(2, 0);
    return std::tuple{a, b, (turned.squeeze(1) > 0).to(torch::kInt64)};
  };
  GrassmannHead model(GrassmannHeadConfig{.dim = 2, .rank = 4, .window = 1, .labels = 2});
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(0.02));
  for (int64_t step = 0; step < 200; ++step) {
    const auto [a, b, label] = draw(128);
    adam.zero_grad();
    torch::nn::functional::cross_entropy(model->forward({a, {}}, {b, {}}), label).backward();
    adam.step();
  }
  const auto [a, b, label] = draw(1000);
  const auto right = model->forward({a, {}}, {b, {}}).argmax(1).eq(label).to(torch::kFloat64).mean().item<double>();
  EXPECT_GT(right, 0.95);
}

TEST(GrassmannHead, WrongInputIsNamed) {
  EXPECT_THROW(GrassmannHead(GrassmannHeadConfig{.rank = 1}), Error);
  EXPECT_THROW(GrassmannHead(GrassmannHeadConfig{.window = 0}), Error);
  auto model = head({.dim = 4, .rank = 3, .window = 2, .labels = 2});
  const auto x = torch::randn({2, 3, 4}, kWide);
  EXPECT_THROW(model->forward({x, {}}, {x.narrow(0, 0, 1), {}}), Error);
  EXPECT_THROW(model->forward({x, {}}, {x.narrow(2, 0, 3), {}}), Error);
  EXPECT_THROW(model->forward({x, torch::zeros({2, 4}, torch::kBool)}, {x, {}}), Error);
}

}  // namespace
}  // namespace heed::grassmann_head_test
