// The 3 x 3 convolution of vision models.
#pragma once

#include <torch/torch.h>

namespace heed {

/// 3 x 3 with zeros around the image: each `stride`-th pixel of both axes is kept.
inline torch::nn::Conv2d near_conv(int64_t in, int64_t out, int64_t stride = 1, int64_t groups = 1) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).groups(groups));
}

}  // namespace heed
