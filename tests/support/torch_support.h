// What tests over torch tensors share.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace heed::test {

/// |a - b| / |b| in the Frobenius norm, in double; the difference itself when b is 0.
inline double relative_error(const torch::Tensor& a, const torch::Tensor& b) {
  const auto x = a.detach().to(torch::kFloat64), y = b.detach().to(torch::kFloat64);
  const double difference = (x - y).norm().item<double>(), size = y.norm().item<double>();
  return size > 0 ? difference / size : difference;
}

inline bool all_finite(const torch::Tensor& x) { return torch::isfinite(x).all().item<bool>(); }

/// Forward of float32 against double for logits of ordinary size, and its gradients.
inline constexpr double kForwardTolerance = 2e-5, kGradientTolerance = 1e-4, kDifferenceTolerance = 1e-6;
/// Two formulas of the same layer in double.
inline constexpr double kDouble = 1e-10;

}  // namespace heed::test
