// A vision transformer spreads a few colour hints over a grey image (iColoriT, arXiv 2207.06831).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/reduced_blocks.h"
#include "heed/models/vision_backbone.h"

namespace heed {

/// What paints a patch: its own token, a convolution over 3 x 3 tokens, or attention to them.
enum class ColorizationHead { linear, convolution, attention };

struct ColorizationConfig {
  ColorizationHead head = ColorizationHead::convolution;
  /// Attention of all patches gets a bias by offset; mixers other than dense are left alone.
  bool relative = true;
};

/// Images have 4 channels: lightness, the two colours of hints, and the hints' mask, 1 or 0; colours outside of hints
/// are not looked at. A dense answer is the colours of a patch's pixels, [2, patch, patch], between -1 and 1.
class PointColorizationImpl : public VisionBackbone {
 public:
  /// Throws heed::Error unless `spec` has 4 channels, answers for patches and 2 patch^2 labels.
  PointColorizationImpl(const VisionSpec& spec, const ColorizationConfig& config);

  /// Tokens behind the last norm, [B, patches, C].
  torch::Tensor tokens(const torch::Tensor& pixels, uint64_t seed = 0);
  /// Tokens [B, patches, C] -> colours [B, patches, 2 patch^2].
  torch::Tensor paint(const torch::Tensor& tokens);

  /// The colours, [B, patches, 2 patch^2]: a head that looks at neighbours needs all tokens at once.
  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override { return paint(tokens(pixels, seed)); }
  torch::Tensor answers(const torch::Tensor& states) override { return states; }

 private:
  VisionSpec spec_;
  ColorizationConfig config_;
  torch::nn::Conv2d patches_{nullptr};
  std::vector<TransformerBlock> blocks_;
  LayerReducers reducers_;
  nn::Norm norm_{nullptr};
  torch::nn::Conv2d convolution_{nullptr};
  std::shared_ptr<TokenMixer> attention_;
  torch::nn::Linear linear_{nullptr};
};
TORCH_MODULE(PointColorization);

}  // namespace heed
