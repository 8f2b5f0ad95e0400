// Kernel gradients are not differentiable themselves: asking for it must say so.
#pragma once

#include <torch/torch.h>

#include "heed/error.h"

namespace heed::ops {

/// Passes gradients through; under create_graph they carry a node that throws when differentiated again.
inline torch::autograd::variable_list once_differentiable(torch::autograd::variable_list grads, const std::string& op) {
  struct Refuse : torch::autograd::Function<Refuse> {
    static torch::Tensor forward(torch::autograd::AutogradContext* ctx, const torch::Tensor& grad,
                                 const std::string& op) {
      ctx->saved_data["op"] = op;
      return grad.view_as(grad);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                   torch::autograd::variable_list) {
      fail("heed::{} was differentiated twice: its gradient has no gradient; write the inner gradient as forward ops",
           ctx->saved_data["op"].toStringRef());
    }
  };
  if (!torch::GradMode::is_enabled()) return grads;
  for (auto& grad : grads)
    if (grad.defined()) grad = Refuse::apply(grad.requires_grad() ? grad : grad.detach().requires_grad_(), op);
  return grads;
}

}  // namespace heed::ops
