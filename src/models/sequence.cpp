#include "heed/models/sequence.h"

#include "heed/error.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

SequenceModelImpl::SequenceModelImpl(SequenceConfig config) : config_(std::move(config)) {
  const auto& c = config_;
  require((c.vocab_size > 0) != (c.channels > 0),
          "a sequence of {} tokens of vocabulary and {} channels: one of the two is accepted", c.vocab_size,
          c.channels);
  torch::NoGradGuard no_grad;
  if (c.vocab_size) {
    tokens_ = register_module("embed_tokens", torch::nn::Embedding(c.vocab_size, c.dim));
    tokens_->weight.normal_();  // as large as the positions that are added
  } else {
    vectors_ = register_module("embed_vectors", torch::nn::Linear(c.channels, c.dim));
  }
  if (c.bare) {
    for (size_t i = 0; i < c.layers.size(); ++i) {
      require(c.layers[i].mixer != "landmark_attention", "bare blocks: landmark_attention is not accepted");
      bare_.push_back(register_module("layers_" + std::to_string(i), BareBlock(c, i, c.causal)));
    }
  } else {
    blocks_ = make_blocks(*this, c, c.causal, torch::kFloat32);
    landmarks_ = make_landmarks(*this, blocks_, c.dim);
    norm_ = register_module("norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
  }
  head_ = register_module("head", nn::started_linear(c.dim, c.outputs));
}

Tensor SequenceModelImpl::forward(const Tensor& inputs, const std::optional<Tensor>& key_padding, DecoderState* state,
                                  uint64_t seed) {
  const auto& c = config_;
  MixerInput input;
  if (c.vocab_size) {
    check_ids(inputs, c.vocab_size, "tokens");
    input.x = tokens_(inputs);
  } else {
    require(inputs.dim() == 3 && inputs.size(2) == c.channels, "vectors: [batch, N, {}] is accepted", c.channels);
    input.x = vectors_(inputs);
  }
  if (!c.causal && !c.bare)
    input.x = input.x + nn::sinusoidal(torch::arange(input.x.size(1)), c.dim).to(input.x.scalar_type());
  input.key_padding = key_padding;
  if (config_.bare) return run_bare(std::move(input), state, seed);
  const int64_t seen = state ? state->seen_by_layers() : 0;
  if (landmarks_) input = landmarks_->inserted(std::move(input), seen);
  const auto x = run_blocks(blocks_, std::move(input), state ? &state->layers : nullptr, seed);
  return norm_(landmarks_ ? landmarks_->dropped(x, seen) : x);
}

Tensor SequenceModelImpl::run_bare(MixerInput input, DecoderState* state, uint64_t seed) {
  input.layer.count = int64_t(bare_.size());
  for (size_t i = 0; i < bare_.size(); ++i) {
    input.layer.index = int64_t(i);
    input.seed = seed * 0x9E3779B97F4A7C15ull + i;
    input.x = bare_[i]->forward(input, state ? state->layers.at(i).get() : nullptr);
  }
  return input.x;
}

DecoderState SequenceModelImpl::make_state(int64_t batch) const {
  DecoderState state;
  if (landmarks_) state.landmark_block = landmarks_->block();
  for (const auto& block : blocks_) state.layers.push_back(block->mixer->make_state(batch));
  for (const auto& block : bare_) state.layers.push_back(block->mixer->make_state(batch));
  return state;
}

}  // namespace heed
