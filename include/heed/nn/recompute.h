// Work whose insides are not kept for the backward, which does it again.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

namespace heed::nn {

/// function(inputs), differentiable once in `inputs` (undefined ones are passed on). What it computes inside is dropped
/// and computed again in the backward, so `function` must be pure and hold nothing that needs a gradient. At most 8
/// inputs.
torch::Tensor recomputed(std::function<torch::Tensor(const std::vector<torch::Tensor>&)> function,
                         const std::vector<torch::Tensor>& inputs);

}  // namespace heed::nn
