// How a style steers what is made of it: maps that are equalised, and norms whose scale and shift it says.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// A linear map whose weights are drawn from N(0, 1) and scaled by 1 / sqrt(in) when they are used, so that all maps of
/// a network learn at one rate (arXiv 1710.10196).
class EqualLinearImpl : public torch::nn::Module {
 public:
  EqualLinearImpl(int64_t in, int64_t out);
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight, bias;  ///< [out, in], [out]
};
TORCH_MODULE(EqualLinear);

/// Every channel of an image is brought to mean 0 and variance 1 over its cells, then gamma(w) z + beta(w) of a style w
/// (adaptive instance norm, arXiv 1703.06868). What is the same for all cells is lost: positions must be added behind
/// it.
class AdaptiveInstanceNormImpl : public torch::nn::Module {
 public:
  /// gamma begins near 1, beta near 0.
  AdaptiveInstanceNormImpl(int64_t style, int64_t channels);
  /// x [B, N, C] and w [B, style] -> [B, N, C]. Throws heed::Error where they do not fit.
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& w);
  /// gamma and beta of a style, [B, 1, C] each.
  std::pair<torch::Tensor, torch::Tensor> scale_and_shift(const torch::Tensor& w);

 private:
  EqualLinear map_{nullptr};
};
TORCH_MODULE(AdaptiveInstanceNorm);

}  // namespace heed::nn
