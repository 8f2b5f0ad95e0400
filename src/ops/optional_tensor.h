// Tensors that an operator's caller may leave out.
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::ops {

using OptionalTensor = c10::optional<torch::Tensor>;

/// Undefined tensors count as left out.
inline std::optional<torch::Tensor> from(const OptionalTensor& tensor) {
  return tensor && tensor->defined() ? std::optional<torch::Tensor>(*tensor) : std::nullopt;
}

}  // namespace heed::ops
