// Gradients against central differences.
#pragma once

#include <functional>
#include <vector>

#include "support/torch_support.h"

namespace heed::test {

/// The gradient of `function` at `inputs`, float64, against central differences along one random direction over all.
inline void expect_gradient(const std::function<torch::Tensor()>& function, const std::vector<torch::Tensor>& inputs) {
  const auto out = function();
  const auto weights = torch::randn_like(out);
  const auto grads = torch::autograd::grad({(out * weights).sum()}, inputs, {}, c10::nullopt, false, true);
  torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  std::vector<torch::Tensor> directions;
  double expected = 0, size = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    directions.push_back(torch::randn_like(inputs[i]));
    if (!grads[i].defined()) continue;
    expected += (grads[i] * directions[i]).sum().item<double>();
    size += grads[i].norm().item<double>() * directions[i].norm().item<double>();
  }
  const auto at = [&](double step) {
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i].data().add_(directions[i], step);
    const double value = (function() * weights).sum().item<double>();
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i].data().add_(directions[i], -step);
    return value;
  };
  const double difference = (at(kStep) - at(-kStep)) / (2 * kStep);
  EXPECT_NEAR(difference, expected, kDifferenceTolerance * std::max(size, 1.0));
}

}  // namespace heed::test
