// Tensors as the kernels of single rows take them: float32 or float64, the last dimension dense.
#pragma once

#include <fmt/ranges.h>
#include <torch/torch.h>

#include "heed/error.h"
#include "heed/ops/flash.h"

namespace heed::ops {

/// What such a kernel computes a tensor in.
inline torch::ScalarType plain_type(const torch::Tensor& x) {
  return x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

/// Throws heed::Error where x is not [batch, heads, tokens, size] of a floating type. Differentiable.
inline torch::Tensor plain_rows(const torch::Tensor& x, torch::ScalarType type, const char* op, const char* name) {
  require(x.defined() && x.dim() == 4, "{}: {}: four dimensions, [batch, heads, tokens, ...], are accepted", op, name);
  require(torch::isFloatingType(x.scalar_type()), "{}: {} of type {}: a floating type is accepted", op, name,
          toString(x.scalar_type()));
  const auto wide = x.to(type);
  return wide.size(3) > 1 && wide.stride(3) != 1 ? wide.contiguous() : wide;
}

/// `hidden` [batch, keys] of k, bytes; undefined stays undefined.
inline torch::Tensor hidden_keys(const torch::Tensor& hidden, const torch::Tensor& k, const char* op) {
  if (!hidden.defined()) return hidden;
  require(hidden.dim() == 2 && hidden.size(0) == k.size(0) && hidden.size(1) == k.size(2),
          "{}: hidden of shape [{}]: [{}, {}] is accepted", op, fmt::join(hidden.sizes(), ", "), k.size(0), k.size(2));
  return hidden.to(torch::kUInt8).contiguous();
}

/// A tensor of four dimensions that kernels fill or read as it lies; its shape alone where it has no values.
template <class T>
kernels::View<T> dense_view(const torch::Tensor& x) {
  const std::array<int64_t, 4> size{x.size(0), x.size(1), x.size(2), x.size(3)};
  return {static_cast<T*>(x.data_ptr()), size, kernels::dense_strides(size)};
}

}  // namespace heed::ops
