// Haar's wavelets of images.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// image [B, C, H, W], H and W even -> [B, 4 C, H / 2, W / 2]: of every 2 x 2 pixels the sum, the differences along
/// rows and columns, and of both, halved, so that lengths stay; band by band, C channels each. Throws heed::Error for
/// odd sizes.
torch::Tensor haar_bands(const torch::Tensor& image);
/// The image of bands.
torch::Tensor from_haar_bands(const torch::Tensor& bands);

}  // namespace heed::nn
