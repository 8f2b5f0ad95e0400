#include "heed/models/vision_text.h"

#include "heed/error.h"

namespace heed {

using torch::Tensor;

VisionTextImpl::VisionTextImpl(const VisionConfig& vision_config, const DecoderConfig& text_config) {
  require(text_config.learned_positions == 0, "a decoder behind an image has no learned positions");
  vision = register_module("vision", VisionTransformer(vision_config));
  connector = register_module("connector", torch::nn::Linear(vision_config.dim, text_config.dim));
  text = register_module("text", DecoderLm(text_config));
}

Tensor VisionTextImpl::forward(const Tensor& image, const Tensor& tokens, DecoderState* state, Taps* taps) {
  auto x = text->embed(tokens);
  if (image.defined()) {
    require(image.dim() == 3 && image.size(0) == tokens.size(0) && image.size(2) == x.size(2),
            "image tokens do not fit: [{}, patches, {}] is accepted", tokens.size(0), x.size(2));
    x = torch::cat({image, x}, 1);
  }
  const auto hidden = text->hidden_of(x, state, 0, taps);
  return text->logits(hidden.slice(1, hidden.size(1) - tokens.size(1)));
}

}  // namespace heed
