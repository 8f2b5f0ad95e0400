// RMSNorm and LayerNorm over the last dimension, as one module.
#pragma once

#include <torch/torch.h>

#include "heed/formats/block_config.h"

namespace heed::nn {

class NormImpl : public torch::nn::Module {
 public:
  /// `eps` is added to the mean square or the variance. Starts as the plain normalisation.
  NormImpl(formats::NormKind kind, int64_t dim, double eps);

  /// x [..., dim]; statistics in float32 (float64 for float64), result in x's dtype.
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight, bias;  ///< [dim]; bias: LayerNorm only; srms: neither

 private:
  formats::NormKind kind_;
  double eps_;
};
TORCH_MODULE(Norm);

}  // namespace heed::nn
