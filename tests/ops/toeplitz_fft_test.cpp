// ops::toeplitz_fft against the dense product, with torch's gradients, and its refusals.
#include "heed/ops/toeplitz_fft.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::ops::toeplitz_fft_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// y_i = sum_j c(i - j) x_j through the T x T matrix of every column.
Tensor dense(const Tensor& c, const Tensor& x, bool causal) {
  const int64_t tokens = x.size(-2);
  const auto lag = torch::arange(tokens).unsqueeze(1) - torch::arange(tokens);
  const auto index = (causal ? lag.clamp_min(0) : lag + tokens - 1).flatten();
  auto matrix = c.transpose(-1, -2).index_select(-1, index);
  auto sizes = matrix.sizes().vec();
  sizes.pop_back();
  sizes.insert(sizes.end(), {tokens, tokens});
  matrix = matrix.view(sizes);
  if (causal) matrix = matrix.tril();
  return torch::matmul(matrix, x.transpose(-1, -2).unsqueeze(-1)).squeeze(-1).transpose(-1, -2);
}

struct Case {
  std::vector<int64_t> c, x;  ///< without the lags, which stand before the last dimension
  bool causal;
};

TEST(ToeplitzFft, EqualsTheDenseProductWithGradients) {
  const std::vector<Case> cases{{{1, 3, 1}, {2, 3, 4}, true},
                                {{1, 3, 1}, {2, 3, 4}, false},
                                {{1, 5}, {2, 5}, true},
                                {{2, 5}, {2, 5}, false},
                                {{1}, {7}, false}};
  for (const auto& shape : cases) {
    for (const int64_t tokens : {1, 2, 63, 100}) {
      torch::manual_seed(tokens);
      auto c_size = shape.c, x_size = shape.x;
      c_size.insert(c_size.end() - 1, shape.causal ? tokens : 2 * tokens - 1);
      x_size.insert(x_size.end() - 1, tokens);
      const auto c = torch::randn(c_size).requires_grad_(), x = torch::randn(x_size).requires_grad_();
      const auto got = toeplitz_fft(c, x, shape.causal), want = dense(c, x, shape.causal);
      EXPECT_EQ(got.sizes(), x.sizes());
      EXPECT_LT(relative_error(got, want), 1e-5);
      const auto d_y = torch::randn_like(x);
      const auto grads = torch::autograd::grad({(got * d_y).sum()}, {c, x}),
                 wanted = torch::autograd::grad({(want * d_y).sum()}, {c, x});
      for (size_t i = 0; i < 2; ++i) EXPECT_LT(relative_error(grads[i], wanted[i]), 1e-5) << i << " " << tokens;
    }
  }
}

TEST(ToeplitzFft, OneCoefficientIsAShift) {
  const auto x = torch::randn({9, 3}, torch::kFloat64);
  auto c = torch::zeros({17, 1}, torch::kFloat64);
  c[8] = 1;
  EXPECT_LT(relative_error(toeplitz_fft(c, x, false), x), 1e-15);
  c.zero_();
  c[8 + 2] = 1;  // y_i = x_{i - 2}
  EXPECT_LT(relative_error(toeplitz_fft(c, x, false).slice(0, 2), x.slice(0, 0, 7)), 1e-15);
  EXPECT_LT(toeplitz_fft(c, x, false).slice(0, 0, 2).abs().max().item<double>(), 1e-15);
}

TEST(ToeplitzFft, GradientsAreDifferencesInDouble) {
  torch::manual_seed(4);
  auto c = torch::randn({2, 13, 1}, torch::kFloat64), x = torch::randn({2, 7, 3}, torch::kFloat64);
  const auto d_y = torch::randn_like(x);
  const auto loss = [&](const Tensor& c, const Tensor& x) { return (toeplitz_fft(c, x, false) * d_y).sum(); };
  for (auto* input : {&c, &x}) {
    auto leaf = input->clone().requires_grad_();
    const auto grad = torch::autograd::grad({input == &c ? loss(leaf, x) : loss(c, leaf)}, {leaf})[0].contiguous();
    auto flat = input->view({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double value = flat[i].item<double>();
      flat[i] = value + 1e-3;
      const double above = loss(c, x).item<double>();
      flat[i] = value - 1e-3;
      const double below = loss(c, x).item<double>();
      flat[i] = value;
      // The loss is linear in either, so only rounding is left.
      EXPECT_NEAR((above - below) / 2e-3, grad.view({-1})[i].item<double>(), 1e-10);
    }
  }
}

TEST(ToeplitzFft, SecondDerivatives) {
  torch::manual_seed(5);
  const auto c = torch::randn({1, 6, 1}, torch::kFloat64).requires_grad_();
  const auto x = torch::randn({2, 6, 3}, torch::kFloat64).requires_grad_(), other = torch::randn_like(x);
  // <T(c) x, T(c) x> through the gradient of <T(c) x, y> with respect to x, at y = T(c) x.
  const auto twice = [&](const auto& product) {
    const auto y = product(c, x);
    const auto d_x = torch::autograd::grad({(y * y).sum()}, {x}, {}, true, true)[0];
    return torch::autograd::grad({(d_x * other).sum()}, {c, x});
  };
  const auto got = twice([](const Tensor& c, const Tensor& x) { return toeplitz_fft(c, x, true); });
  const auto want = twice([](const Tensor& c, const Tensor& x) { return dense(c, x, true); });
  for (size_t i = 0; i < 2; ++i) EXPECT_LT(relative_error(got[i], want[i]), 1e-13) << i;
}

TEST(ToeplitzFft, SixteenBitTypesAndRefusals) {
  const auto x = torch::randn({2, 30, 4}), c = torch::randn({1, 30, 4});
  const auto half = toeplitz_fft(c.to(torch::kBFloat16), x.to(torch::kBFloat16), true);
  EXPECT_EQ(half.scalar_type(), torch::kBFloat16);
  const auto want = dense(c.to(torch::kBFloat16).to(torch::kFloat32), x.to(torch::kBFloat16).to(torch::kFloat32), true);
  EXPECT_LT(relative_error(half, want), std::exp2(-8.0));
  EXPECT_EQ(toeplitz_fft(c.slice(1, 0, 0), x.slice(1, 0, 0), true).size(1), 0);
  EXPECT_THROW(toeplitz_fft(c, x, false), Error);
  EXPECT_THROW(toeplitz_fft(c[0], x, true), Error);
  EXPECT_THROW(toeplitz_fft(c.slice(2, 0, 3), x, true), Error);
  EXPECT_THROW(toeplitz_fft(c, x.to(torch::kFloat64), true), Error);
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  EXPECT_TRUE(toeplitz_fft(torch::empty({1, 8, 1}, meta), torch::empty({3, 8, 2}, meta), true).is_meta());
}

}  // namespace
}  // namespace heed::ops::toeplitz_fft_test
