#include "heed/nn/norm.h"

#include "heed/error.h"

namespace heed::nn {

using formats::NormKind;

namespace {
constexpr double kMomentum = 0.1;
}  // namespace

NormImpl::NormImpl(NormKind kind, int64_t dim, double eps) : kind_(kind), eps_(eps) {
  if (kind == NormKind::srms) return;
  weight = register_parameter("weight", kind == NormKind::rms_plus_one ? torch::zeros({dim}) : torch::ones({dim}));
  if (kind == NormKind::layer || kind == NormKind::batch) bias = register_parameter("bias", torch::zeros({dim}));
  if (kind != NormKind::batch) return;
  running_mean = register_buffer("running_mean", torch::zeros({dim}));
  running_var = register_buffer("running_var", torch::ones({dim}));
}

torch::Tensor NormImpl::forward(const torch::Tensor& x) {
  if (kind_ == NormKind::layer) return torch::layer_norm(x, weight.sizes(), weight, bias, eps_);
  if (kind_ == NormKind::batch) {
    const auto rows = x.reshape({-1, x.size(-1)});
    require(!is_training() || rows.size(0) > 1,
            "a norm of kind batch over {} tokens in training: 2 or more are accepted", rows.size(0));
    return torch::batch_norm(rows, weight, bias, running_mean, running_var, is_training(), kMomentum, eps_, false)
        .view(x.sizes());
  }
  const auto wide = x.scalar_type() == torch::kFloat64 ? x : x.to(torch::kFloat32);
  const auto normed = wide * torch::rsqrt(wide.square().mean(-1, true) + eps_);
  // Gemma scales before rounding, Llama after it: 16-bit results depend on the order.
  if (kind_ == NormKind::rms_plus_one) return (normed * (1 + weight.to(normed.scalar_type()))).to(x.scalar_type());
  const auto rounded = normed.to(x.scalar_type());
  return kind_ == NormKind::srms ? rounded : rounded * weight;
}

}  // namespace heed::nn
