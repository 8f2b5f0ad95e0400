// A vision transformer (arXiv 2010.11929): patches of an image as tokens, mixers of tokens and channels by name.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/mixers/taps.h"
#include "heed/models/transformer.h"

namespace heed {

struct VisionConfig : TransformerConfig {
  int64_t image_height = 224, image_width = 224;  ///< pixels
  int64_t patch_height = 16, patch_width = 16;    ///< they divide the image
  int64_t channels = 3;
  /// A learned token before the patches, whose last state stands for the image; without it their mean does. Token
  /// mixers are told the grid of patches without it, or where all of them are configured with a class_token.
  bool class_token = true;
  bool patch_positions = true;  ///< learned ones are added to the tokens
  bool pooler = false;
  int64_t labels = 0;  ///< classes; 0: no classifier

  int64_t patches() const { return (image_height / patch_height) * (image_width / patch_width); }
};

class VisionTransformerImpl : public torch::nn::Module {
 public:
  /// With parameters of `dtype`, drawn at random.
  explicit VisionTransformerImpl(VisionConfig config, torch::ScalarType dtype = torch::kFloat32);

  /// pixels [B, channels, image_height, image_width] -> hidden states [B, tokens, dim] after the last norm; tokens are
  /// the patches row by row, after the class token. Without positions the image may have other heights and widths.
  /// Throws heed::Error for another shape.
  torch::Tensor forward(const torch::Tensor& pixels, uint64_t seed = 0, Taps* taps = nullptr);
  /// The two ends of `forward`: tokens [B, tokens, dim] before the first block, and the norm behind the last.
  torch::Tensor embed(const torch::Tensor& pixels);
  torch::Tensor finish(const torch::Tensor& tokens) { return norm_(tokens); }
  /// tanh of a linear map of the image's state, [B, dim]; throws without a pooler.
  torch::Tensor pooled(const torch::Tensor& hidden);
  /// [B, labels]; throws without a classifier.
  torch::Tensor logits(const torch::Tensor& hidden);

  const VisionConfig& config() const { return config_; }
  std::vector<TransformerBlock> blocks;

 private:
  torch::Tensor image_state(const torch::Tensor& hidden) const;

  VisionConfig config_;
  torch::nn::Conv2d patches_{nullptr};
  torch::Tensor class_token_, positions_;
  nn::Norm norm_{nullptr};
  torch::nn::Linear pooler_{nullptr}, classifier_{nullptr};
};
TORCH_MODULE(VisionTransformer);

}  // namespace heed
