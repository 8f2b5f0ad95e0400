// RMSNorm, LayerNorm and BatchNorm of the last dimension, as one module.
#pragma once

#include <torch/torch.h>

#include "heed/formats/block_config.h"

namespace heed::nn {

class NormImpl : public torch::nn::Module {
 public:
  /// `eps` is added to the mean square or the variance. Starts as the plain normalisation.
  NormImpl(formats::NormKind kind, int64_t dim, double eps);

  /// x [..., dim]; statistics in float32 (float64 for float64), result in x's dtype. Those of batch norms are over all
  /// but the last dimension in training, where running ones follow them with momentum 0.1, and the running ones in
  /// evaluation.
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight, bias;               ///< [dim]; bias: LayerNorm and BatchNorm; srms: neither
  torch::Tensor running_mean, running_var;  ///< [dim]: BatchNorm only, buffers

 private:
  formats::NormKind kind_;
  double eps_;
};
TORCH_MODULE(Norm);

}  // namespace heed::nn
