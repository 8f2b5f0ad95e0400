// A loss that is quadratic near 0 and linear beyond (Huber, 1964).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// e^2 / (2 delta) below delta, |e| - delta / 2 above: slope 1 beyond, delta / 2 at delta. Of every entry.
inline torch::Tensor huber(const torch::Tensor& error, double delta) {
  const auto size = error.abs();
  return torch::where(size < delta, error.square() / (2 * delta), size - delta / 2);
}

}  // namespace heed::nn
