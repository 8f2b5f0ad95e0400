// A vision transformer with two branches beside self-attention: what the image looks at most asks all of it once more,
// and in training every image is distracted by another one (DCAL, arXiv 2205.02151).
#pragma once

#include <torch/torch.h>

#include "heed/models/vision.h"
#include "heed/models/vision_backbone.h"

namespace heed {

struct DualCrossConfig {
  double share = 0.1;  ///< of the patches that ask again, in (0, 1]
  bool local = true;   ///< the branch that asks again
  bool pairs = true;   ///< the branch of pairs of images, in training
};

class DualCrossImpl : public VisionBackbone {
 public:
  /// Layers are softmax attention. Throws heed::Error for other mixers and shares.
  DualCrossImpl(const VisionSpec& spec, const DualCrossConfig& config);

  /// The image's state [B, C] by each branch, behind its norm; undefined for a branch that is not there.
  struct Branches {
    torch::Tensor self, local, pair;
  };
  /// `partner` int64 [B]: whose keys and values distract an image, -1: nobody's; undefined: no branch of pairs. Throws
  /// heed::Error for images that are not there.
  Branches branches(const torch::Tensor& pixels, const torch::Tensor& partner = {}, uint64_t seed = 0);

  /// [B, 1, C] of self-attention, and, with the local branch, [B, 1, 2 C] of both.
  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override;
  /// Logarithms of the probabilities that the branches of `states` give, summed.
  torch::Tensor answers(const torch::Tensor& states) override;
  /// Half of the sum over branches of e^-w L + w, w learned (arXiv 1705.07115).
  torch::Tensor training_loss(const torch::Tensor& loss, const Judge& judge) override;

  VisionTransformer vit{nullptr};
  TransformerBlock local_block{nullptr};
  nn::Norm local_norm{nullptr};
  torch::nn::Linear local_classifier{nullptr};
  torch::Tensor uncertainty;  ///< w [3], of self, local, pair

 private:
  torch::Tensor self_answers(const torch::Tensor& state) { return vit->logits(state.unsqueeze(-2)); }

  DualCrossConfig config_;
  Branches last_;  // of the last images in training
};
TORCH_MODULE(DualCross);

}  // namespace heed
