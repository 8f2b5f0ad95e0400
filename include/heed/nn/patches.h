// An image cut into patches, and put together again.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// [B, C, H, W] -> [B, patches, C, height, width], patches row by row; `height` divides H, `width` W.
inline torch::Tensor to_patches(const torch::Tensor& image, int64_t height, int64_t width) {
  return image.unfold(2, height, height).unfold(3, width, width).permute({0, 2, 3, 1, 4, 5}).flatten(1, 2);
}

/// [B, patches, C height width] or [B, patches, C, height, width] -> [B, C, H, W] of `rows` rows of patches.
inline torch::Tensor from_patches(const torch::Tensor& patches, int64_t rows, int64_t height, int64_t width) {
  const auto x = patches.reshape({patches.size(0), rows, patches.size(1) / rows, -1, height, width});
  return x.permute({0, 3, 1, 4, 2, 5}).flatten(2, 3).flatten(3, 4);
}

}  // namespace heed::nn
