// Overview first, look closely next: a coarse look at the whole image is a context from which a second look makes the
// kernels of its convolutions (OverLoCK, arXiv 2502.20087).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/vision_pyramid.h"

namespace heed {

struct OverlockConfig {
  static constexpr int64_t kStages = 4;  ///< of its pyramid: three, and the overview
  int64_t depth = 2;                     ///< blocks of the second look
  int64_t kernel = 7;                    ///< of their large kernels, odd, 3 to 17
  bool context = true;                   ///< the second look is told of the first; else its context is 0
  double overview_weight = 0.4;          ///< in training, of the loss of answers read from the first look alone
};

/// Three stages of a pyramid; a fourth one, the overview, whose channels become a
/// context [h] on the cells of the third; blocks of context_mixing_conv over [x, h]. What is read are the stages of the
/// pyramid, the third exchanged for what the second look made of it.
class OverlockImpl : public VisionBackbone {
 public:
  /// `stages`: four of them; without, as PyramidConfig::growing makes them. Throws heed::Error for another number and
  /// for sizes that do not fit.
  OverlockImpl(const VisionSpec& spec, const PyramidConfig& stages, const OverlockConfig& config);
  OverlockImpl(const VisionSpec& spec, const OverlockConfig& config)
      : OverlockImpl(spec, PyramidConfig::growing(spec, OverlockConfig::kStages), config) {}
  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override;
  torch::Tensor answers(const torch::Tensor& states) override { return pyramid_->answers(states); }
  torch::Tensor training_loss(const torch::Tensor& loss, const Judge& judge) override;

 private:
  VisionSpec spec_;
  OverlockConfig config_;
  VisionPyramid pyramid_{nullptr};
  Grid overview_grid_;
  torch::nn::Conv2d overview_embedding_{nullptr};
  std::vector<TransformerBlock> overview_, focus_;
  LayerReducers overview_reducers_;
  nn::Norm overview_norm_{nullptr}, norm_{nullptr};
  torch::nn::Linear to_context_{nullptr}, from_focus_{nullptr}, overview_classifier_{nullptr};
  torch::Tensor mix_;             // [depth, 2]: of the context that a block left and of the first one
  torch::Tensor overview_state_;  // of the last images in training
};
TORCH_MODULE(Overlock);

}  // namespace heed
