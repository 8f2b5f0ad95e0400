// The short causal convolution in front of recurrent mixers.
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::nn {

/// Depthwise: y_t = bias + sum_{i < width} weight_i x_{t - width + 1 + i}, then silu where asked.
class ShortConvImpl : public torch::nn::Module {
 public:
  ShortConvImpl(int64_t channels, int64_t width, bool bias = false, bool silu = true);

  /// x [B, N, C]. `tail`, the width - 1 inputs before x, [B, width - 1, C], becomes those before what follows x;
  /// undefined: zeros, and null: zeros, and none are kept. Packed sequences (B = 1) begin with zeros each.
  torch::Tensor forward(const torch::Tensor& x, torch::Tensor* tail = nullptr,
                        const std::optional<torch::Tensor>& cu_seqlens = {});

  torch::Tensor weight, bias;  ///< [width, C], [C] (undefined without)

 private:
  bool silu_;
};
TORCH_MODULE(ShortConv);

}  // namespace heed::nn
