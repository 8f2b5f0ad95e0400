#include "heed/nn/added_loss.h"

namespace heed::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AddedLoss : torch::autograd::Function<AddedLoss> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& loss) {
    ctx->saved_data["type"] = loss.scalar_type();
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {grads[0], torch::ones({}, ctx->saved_data["type"].toScalarType())};
  }
};

}  // namespace

Tensor with_loss(const Tensor& x, const Tensor& loss) { return AddedLoss::apply(x, loss); }

}  // namespace heed::nn
