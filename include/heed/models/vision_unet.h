// A U-Net whose blocks have mixers by name, for classes of patches above all; with ss2d it is VM-UNet
// (arXiv 2402.02491).
#pragma once

#include "heed/models/reduced_blocks.h"
#include "heed/models/unet.h"
#include "heed/models/vision_backbone.h"

namespace heed {

/// Every stop has the blocks of `spec.base`, scale s with s + 1 times the channels and heads. Dense states are the
/// finest cells behind a norm; an image's is their mean.
class VisionUnetImpl : public VisionBackbone {
 public:
  VisionUnetImpl(const VisionSpec& spec, int64_t scales);
  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override;
  torch::Tensor answers(const torch::Tensor& states) override { return classifier_(states); }

 private:
  VisionSpec spec_;
  torch::nn::Conv2d embedding_{nullptr};
  torch::Tensor positions_;
  UNet body_{nullptr};
  std::vector<std::vector<TransformerBlock>> blocks_;  // of every stop
  std::vector<LayerReducers> reducers_;                // likewise
  nn::Norm norm_{nullptr};
  torch::nn::Linear classifier_{nullptr};
};
TORCH_MODULE(VisionUnet);

}  // namespace heed
