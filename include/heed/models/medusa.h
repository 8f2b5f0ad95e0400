// One body looks at the whole image; small heads turn what it sees into gates of every stage of a pyramid (MEDUSA,
// arXiv 2110.06063).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/vision_pyramid.h"

namespace heed {

/// A small U-Net: [B, channels, H, W] -> a map [B, 1, H, W] of numbers between 0 and 1.
class AttentionBodyImpl : public torch::nn::Module {
 public:
  /// `width` channels, doubled at each of `levels` - 1 halvings.
  AttentionBodyImpl(int64_t channels, int64_t width, int64_t levels);
  torch::Tensor forward(const torch::Tensor& image);

 private:
  std::vector<torch::nn::Conv2d> down_, up_;
  torch::nn::Conv2d out_{nullptr};
};
TORCH_MODULE(AttentionBody);

struct MedusaConfig {
  int64_t width = 8, levels = 4;  ///< of the body
  int64_t head_channels = 8;
  bool shared = true;     ///< one body for all stages; else one each
  bool residual = false;  ///< features are multiplied by 1 + gate, not by the gate
};

class MedusaImpl : public VisionBackbone {
 public:
  MedusaImpl(const PyramidConfig& pyramid, const MedusaConfig& config);

  /// What multiplies the features of every stage, [B, cells, 1].
  std::vector<torch::Tensor> gates(const torch::Tensor& pixels);
  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override;
  torch::Tensor answers(const torch::Tensor& states) override { return pyramid->answers(states); }

  VisionPyramid pyramid{nullptr};
  std::vector<AttentionBody> bodies;  ///< one, or one a stage

 private:
  struct Head {
    torch::nn::Conv2d hidden{nullptr}, out{nullptr};
  };
  MedusaConfig config_;
  std::vector<Head> heads_;
};
TORCH_MODULE(Medusa);

}  // namespace heed
