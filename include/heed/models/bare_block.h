// A block without norms and residuals, whose answers scale with its inputs (Positional Attention, arXiv 2410.01686).
#pragma once

#include <torch/torch.h>

#include <memory>

#include "heed/models/transformer.h"

namespace heed {

/// The token mixer of a layer of `config`, told what the model says of all layers and what the layer's plan adds.
std::shared_ptr<TokenMixer> make_layer_mixer(const TransformerConfig& config, size_t layer, bool causal);

/// x becomes W2 relu(W1 [x; T(x)] + b1) + b2; T mixes tokens, W1 has config.hidden rows. Weights start as Glorot's,
/// biases at 0.
class BareBlockImpl : public torch::nn::Module {
 public:
  BareBlockImpl(const TransformerConfig& config, size_t layer, bool causal);
  torch::Tensor forward(const MixerInput& input, MixerState* state = nullptr);

  std::shared_ptr<TokenMixer> mixer;
  torch::nn::Linear up{nullptr}, down{nullptr};
};
TORCH_MODULE(BareBlock);

}  // namespace heed
