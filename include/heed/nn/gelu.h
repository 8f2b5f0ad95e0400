// The Gaussian error linear unit, x P(X < x) (arXiv 1606.08415).
#pragma once

#include <torch/torch.h>

#include <cmath>

namespace heed::nn {

/// Written out: in float32 the gradient of libtorch 1.13's own is wrong where the gradient that comes in is not dense.
inline torch::Tensor gelu(const torch::Tensor& x) { return 0.5 * x * (1 + torch::erf(x * M_SQRT1_2)); }

}  // namespace heed::nn
