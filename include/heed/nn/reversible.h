// Residual layers whose inputs follow from their outputs, so that training keeps no activations of theirs.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <utility>
#include <vector>

namespace heed::nn {

/// y1 = x1 + f(x2), y2 = x2 + g(y1) (arXiv 1707.04585, 2001.04451).
struct ReversibleLayer {
  std::function<torch::Tensor(const torch::Tensor&)> f, g;
};

using TensorPair = std::pair<torch::Tensor, torch::Tensor>;

/// (x1, x2) through all layers. Only the outputs are kept: the backward finds the inputs again, layer by layer, and
/// runs f and g a second time, with the random numbers of the first (libtorch's default generator). Gradients of
/// parameters of f and g are added to their .grad by any backward through the result; torch::autograd::grad does not
/// see them. x1 and x2 have one shape.
TensorPair run_reversible(const std::vector<ReversibleLayer>& layers, const torch::Tensor& x1, const torch::Tensor& x2);

/// The inputs that lead to (y1, y2), for f and g without random numbers; no gradients.
TensorPair invert_reversible(const std::vector<ReversibleLayer>& layers, const torch::Tensor& y1,
                             const torch::Tensor& y2);

}  // namespace heed::nn
