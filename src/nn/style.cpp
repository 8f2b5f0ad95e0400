#include "heed/nn/style.h"

#include <cmath>

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

namespace {

constexpr double kEps = 1e-8;

}  // namespace

EqualLinearImpl::EqualLinearImpl(int64_t in, int64_t out) {
  weight = register_parameter("weight", torch::randn({out, in}));
  bias = register_parameter("bias", torch::zeros({out}));
}

Tensor EqualLinearImpl::forward(const Tensor& x) {
  return torch::linear(x, weight / std::sqrt(double(weight.size(1))), bias);
}

AdaptiveInstanceNormImpl::AdaptiveInstanceNormImpl(int64_t style, int64_t channels) {
  map_ = register_module("map", EqualLinear(style, 2 * channels));
  torch::NoGradGuard no_grad;
  map_->bias.narrow(0, 0, channels).fill_(1);
}

std::pair<Tensor, Tensor> AdaptiveInstanceNormImpl::scale_and_shift(const Tensor& w) {
  require(w.dim() == 2 && w.size(1) == map_->weight.size(1), "a style of shape {}: [batch, {}] is accepted",
          c10::str(w.sizes()), map_->weight.size(1));
  const auto parts = map_(w).unsqueeze(1).chunk(2, 2);
  return {parts[0], parts[1]};
}

Tensor AdaptiveInstanceNormImpl::forward(const Tensor& x, const Tensor& w) {
  const int64_t channels = map_->bias.size(0) / 2;
  require(x.dim() == 3 && x.size(0) == w.size(0) && x.size(2) == channels,
          "cells of shape {} with styles of shape {}: [batch, cells, {}] is accepted", c10::str(x.sizes()),
          c10::str(w.sizes()), channels);
  const auto [gamma, beta] = scale_and_shift(w);
  const auto apart = x - x.mean(1, true);
  return gamma * apart * torch::rsqrt(apart.square().mean(1, true) + kEps) + beta;
}

}  // namespace heed::nn
