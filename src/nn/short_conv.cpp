#include "heed/nn/short_conv.h"

#include <cmath>

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

ShortConvImpl::ShortConvImpl(int64_t channels, int64_t width, bool has_bias, bool silu) : silu_(silu) {
  require(width >= 1, "short convolution of {} tokens; 1 or more is accepted", width);
  const double bound = 1 / std::sqrt(static_cast<double>(width));
  weight = register_parameter("weight", torch::empty({width, channels}).uniform_(-bound, bound));
  if (has_bias) bias = register_parameter("bias", torch::zeros({channels}));
}

Tensor ShortConvImpl::forward(const Tensor& x, Tensor* tail, const std::optional<Tensor>& cu_seqlens) {
  const int64_t width = weight.size(0), tokens = x.size(1);
  const auto before = tail != nullptr && tail->defined() ? *tail : x.new_zeros({x.size(0), width - 1, x.size(2)});
  const auto all = width > 1 ? torch::cat({before, x}, 1) : x;
  Tensor place;  // of each token in its sequence
  if (cu_seqlens) {
    const auto bounds = cu_seqlens->to(torch::kInt64), tokens_of = torch::arange(tokens);
    place = tokens_of - bounds.index_select(0, torch::searchsorted(bounds, tokens_of, false, true) - 1);
  }
  Tensor y;
  for (int64_t lag = width - 1; lag >= 0; --lag) {
    auto term = all.narrow(1, width - 1 - lag, tokens) * weight[width - 1 - lag];
    if (place.defined() && lag > 0) term = term.masked_fill((place < lag).view({1, -1, 1}), 0);
    y = y.defined() ? y + term : term;
  }
  if (bias.defined()) y = y + bias;
  // A copy, so that no view keeps all of x.
  if (tail != nullptr && width > 1) *tail = all.narrow(1, tokens, width - 1).clone();
  return silu_ ? torch::silu(y) : y;
}

}  // namespace heed::nn
