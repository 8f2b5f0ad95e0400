// A vision transformer whose patches stand before the tokens of a decoder, through one linear map (LLaVA,
// arXiv 2304.08485): the two-segment model on which interventions in vision-language models are shown.
#pragma once

#include <torch/torch.h>

#include "heed/models/decoder_lm.h"
#include "heed/models/vision.h"

namespace heed {

class VisionTextImpl : public torch::nn::Module {
 public:
  /// With parameters drawn at random. Throws heed::Error for a decoder with learned positions.
  VisionTextImpl(const VisionConfig& vision, const DecoderConfig& text);

  /// States of patches [B, K, C of the vision model] -> tokens of the decoder [B, K, C].
  torch::Tensor image_tokens(const torch::Tensor& patches) { return connector(patches); }
  /// Logits [B, N, vocab] of token ids int64 [B, N] behind `image` [B, K, C], which may be undefined: text only, or an
  /// image that the state has seen.
  torch::Tensor forward(const torch::Tensor& image, const torch::Tensor& tokens, DecoderState* state = nullptr,
                        Taps* taps = nullptr);

  VisionTransformer vision{nullptr};
  torch::nn::Linear connector{nullptr};
  DecoderLm text{nullptr};
};
TORCH_MODULE(VisionText);

}  // namespace heed
