#include "heed/nn/shown_norm.h"

namespace heed::nn {

using torch::Tensor;

Tensor norm_of_shown(torch::nn::BatchNorm1d& norm, const Tensor& x, const Tensor& hidden) {
  const auto rows = x.reshape({-1, x.size(-1)});
  if (!hidden.defined()) return norm(rows).view(x.sizes());
  const auto shown = hidden.logical_not().flatten().nonzero().squeeze(1);
  auto normed = torch::zeros_like(rows);
  if (shown.numel() > 0) normed = normed.index_copy(0, shown, norm(rows.index_select(0, shown)));
  return normed.view(x.sizes());
}

Tensor norm_of_shown(torch::nn::GroupNorm& norm, const Tensor& x, const Tensor& hidden) {
  if (!hidden.defined()) return norm(x);
  const auto by_group = x.unflatten(1, {norm->options.num_groups(), -1});
  const auto shown = hidden.logical_not().to(x.scalar_type()).view({x.size(0), 1, 1, x.size(2)});
  const auto count = (shown.sum(3, true) * double(by_group.size(2))).clamp_min(1);
  const auto mean = (by_group * shown).sum({2, 3}, true) / count;
  const auto apart = (by_group - mean) * shown;
  const auto normed =
      (apart * torch::rsqrt(apart.square().sum({2, 3}, true) / count + norm->options.eps())).flatten(1, 2);
  return (normed * norm->weight.unsqueeze(1) + norm->bias.unsqueeze(1)) * shown.squeeze(1);
}

}  // namespace heed::nn
