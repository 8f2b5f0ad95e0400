// What the scans share between torch tensors and kernel views.
#pragma once

#include <torch/torch.h>

#include "heed/error.h"
#include "heed/ops/flash.h"
#include "ops/optional_tensor.h"

namespace heed::ops {

/// The "cu_seqlens" that a forward saved, undefined where it saved none.
inline torch::Tensor saved_bounds(torch::autograd::AutogradContext* ctx) {
  const auto found = ctx->saved_data.find("cu_seqlens");
  return found == ctx->saved_data.end() ? torch::Tensor() : found->second.toTensor();
}

/// The tensor with `dim` dimensions, on a device that kernels run on, its last dimension dense.
inline torch::Tensor scan_input(const torch::Tensor& tensor, const char* op, const char* name, int64_t dim,
                                const char* accepted) {
  require(tensor.defined(), "{}: {} is missing", op, name);
  require(tensor.dim() == dim, "{}: {} has {} dimensions; {} is accepted", op, name, tensor.dim(), accepted);
  require(torch::isFloatingType(tensor.scalar_type()), "{}: {} has type {}; a floating type is accepted", op, name,
          toString(tensor.scalar_type()));
  require(tensor.device().is_cpu() || tensor.is_meta(), "{}: {} is on {}; the CPU is accepted", op, name,
          tensor.device().str());
  return tensor.size(dim - 1) <= 1 || tensor.stride(dim - 1) == 1 ? tensor : tensor.contiguous();
}

/// Bounds of packed sequences as kernels read them; null data where there are none.
inline torch::Tensor scan_bounds(const OptionalTensor& cu_seqlens, const char* op) {
  if (!cu_seqlens || !cu_seqlens->defined()) return {};
  require(!torch::isFloatingType(cu_seqlens->scalar_type()) && cu_seqlens->dim() == 1 && cu_seqlens->numel() >= 2,
          "{}: cu_seqlens has {} dimensions and type {}; integers [sequences + 1] are accepted", op, cu_seqlens->dim(),
          toString(cu_seqlens->scalar_type()));
  return cu_seqlens->to(torch::kInt64).contiguous();
}

/// The dtype of what is not stored in 16 bits.
inline torch::ScalarType side_dtype(const torch::Tensor& main) {
  return main.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

/// The view of a tensor, absent for an undefined one. One without storage points somewhere, for checks of its shape.
inline kernels::AnyView scan_view(const torch::Tensor& tensor) {
  if (!tensor.defined()) return {};
  static char somewhere;
  auto view = view_of(tensor);
  if (tensor.is_meta()) view.data = &somewhere;
  return view;
}
inline kernels::AnyView scan_view(const OptionalTensor& tensor) {
  return tensor ? scan_view(*tensor) : kernels::AnyView();
}

/// A gradient as the kernel reads it: in the dtype of its tensor, the last dimension dense.
inline torch::Tensor scan_gradient(const torch::Tensor& grad, torch::ScalarType dtype) {
  if (!grad.defined()) return {};
  const auto typed = grad.to(dtype);
  return typed.size(-1) <= 1 || typed.stride(-1) == 1 ? typed : typed.contiguous();
}

}  // namespace heed::ops
