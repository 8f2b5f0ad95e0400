// Tokens as the cells of a grid: convolutions over it, pooling of it, rotary angles from its rows and columns.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// [B, H W, C] -> [B, C, H, W] and back.
torch::Tensor to_image(const torch::Tensor& tokens, int64_t height, int64_t width);
torch::Tensor to_tokens(const torch::Tensor& image);

/// A depthwise convolution over the grid with zeros around it: tokens [B, H W, C] -> the same.
class GridConvImpl : public torch::nn::Module {
 public:
  /// `size` odd; neighbours are `dilation` cells apart.
  GridConvImpl(int64_t channels, int64_t size, bool bias = true, int64_t dilation = 1);
  torch::Tensor forward(const torch::Tensor& tokens, int64_t height, int64_t width);

  torch::Tensor weight, bias;  ///< [C, 1, size, size], [C] (undefined without)

 private:
  int64_t dilation_;
};
TORCH_MODULE(GridConv);

/// Rotates pairs of the channels of x [..., H W, D] by angles of the row (first half of D) and the column (second
/// half), 10000^(-2 i / (D / 2)) a cell. Channels beyond the largest multiple of 4 stay as they are.
torch::Tensor rotate_by_cell(const torch::Tensor& x, int64_t height, int64_t width);

}  // namespace heed::nn
