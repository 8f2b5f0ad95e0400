// A loss inside of a model that its trainer does not know of.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// x, with the gradient of the scalar `loss` added in every backward that passes through x: training then minimises
/// what is made of x plus `loss`, whose weight is the caller's.
torch::Tensor with_loss(const torch::Tensor& x, const torch::Tensor& loss);

}  // namespace heed::nn
