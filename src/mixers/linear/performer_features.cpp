#include "mixers/linear/performer_features.h"

#include <cmath>

#include "heed/nn/random_features.h"

namespace heed::linear {

using torch::Tensor;

Tensor performer_features(const Tensor& unscaled, const Tensor& rows, const std::string& kind, bool queries) {
  constexpr double kFloor = 1e-4, kReluFloor = 1e-3, kLargest = 60;
  const auto x = unscaled * std::pow(static_cast<double>(rows.size(1)), -0.25);
  if (kind == "relu") return torch::relu(torch::matmul(x, rows.to(x.scalar_type()).t())) + kReluFloor;
  auto logits = nn::positive_feature_logits(x, rows);
  if (kind == "hyperbolic") logits = torch::cat({logits, nn::positive_feature_logits(x, -rows)}, -1);
  // What is taken off cancels. Off a query its own largest; off keys one number for all, since a later key must not
  // change what earlier ones gave: nothing while exp(|w|^2 / 2), which no feature exceeds, is far from overflow.
  const auto key_offset = (rows.square().sum(-1).amax() / 2 - kLargest).clamp_min(0);
  const auto top = queries ? logits.amax(-1, true) : key_offset.to(logits.scalar_type());
  return torch::exp(logits - top) / std::sqrt(static_cast<double>(logits.size(-1))) + kFloor;
}

}  // namespace heed::linear
