// Tensors that an operator's caller may leave out; an undefined one counts as left out.
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::ops {

/// As the dispatcher and autograd's functions take them.
using OptionalTensor = c10::optional<torch::Tensor>;

inline OptionalTensor present(const std::optional<torch::Tensor>& tensor) {
  return tensor && tensor->defined() ? OptionalTensor(*tensor) : OptionalTensor();
}
inline std::optional<torch::Tensor> present(const OptionalTensor& tensor) {
  return tensor && tensor->defined() ? std::optional<torch::Tensor>(*tensor) : std::nullopt;
}

/// Absent for an undefined tensor, which autograd's functions do not take.
inline OptionalTensor if_defined(const torch::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : OptionalTensor();
}

}  // namespace heed::ops
