#include "heed/models/bare_block.h"

namespace heed {

BareBlockImpl::BareBlockImpl(const TransformerConfig& c, size_t layer, bool causal) {
  torch::NoGradGuard no_grad;
  mixer = register_module("mixer", make_layer_mixer(c, layer, causal));
  up = register_module("up", torch::nn::Linear(2 * c.dim, c.hidden));
  down = register_module("down", torch::nn::Linear(c.hidden, c.dim));
  for (auto& linear : {up, down}) {
    torch::nn::init::xavier_uniform_(linear->weight);
    linear->bias.zero_();
  }
}

torch::Tensor BareBlockImpl::forward(const MixerInput& input, MixerState* state) {
  const auto mixed = mixer->forward(input, state);
  return down(torch::relu(up(torch::cat({input.x, mixed}, -1))));
}

}  // namespace heed
