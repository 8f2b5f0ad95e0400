// Convolutions over the grid that blocks of image models have beside their mixers.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>

#include "heed/mixers/token_mixer.h"

namespace heed {

class LocalConv : public torch::nn::Module {
 public:
  /// x [B, N, C] and what the convolutions add to it. Throws heed::Error without a grid of height and width, and for
  /// padding.
  torch::Tensor forward(const torch::Tensor& x, const MixerInput& input);

 private:
  virtual torch::Tensor added(const torch::Tensor& x, int64_t height, int64_t width) = 0;
};

/// depthwise: a depthwise convolution of 3 x 3 cells, by which cells know their places (BiFormer, arXiv 2303.08810;
/// DaViT, arXiv 2204.03645). mbconv: a batch norm, 1 x 1 to four times the channels, depthwise 3 x 3, each with a batch
/// norm and GELU, channels gated by a perceptron of their means with a quarter of the block's channels inside, and 1 x
/// 1 back (MaxViT, arXiv 2204.01697). Throws heed::Error for another name.
std::shared_ptr<LocalConv> make_local_conv(const std::string& name, int64_t dim);

}  // namespace heed
