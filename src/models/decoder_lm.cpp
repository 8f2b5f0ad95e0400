#include "heed/models/decoder_lm.h"

#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/mixers/companion.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

bool DecoderConfig::is_llama() const {
  if (positions.kind != "rope" || positions.rope.interleaved || positions.rope.rotary_dim) return false;
  auto like_llama = formats::BlockConfig();
  like_llama.mlp_bias = block.mlp_bias;
  const formats::AttentionTraits biased{.qkv_bias = attention.qkv_bias, .output_bias = attention.qkv_bias};
  if (block != like_llama || attention != biased) return false;
  if (embedding_scale != 1 || learned_positions || logit_softcap) return false;
  for (const auto& layer : layers)
    if (layer.mixer != "dense" || !layer.config.empty()) return false;
  return true;
}

int64_t DecoderState::bytes() const {
  int64_t total = 0;
  for (const auto& layer : layers) total += layer->bytes();
  return total;
}

DecoderLmImpl::DecoderLmImpl(DecoderConfig config, torch::ScalarType dtype) : config_(std::move(config)) {
  const auto& c = config_;
  torch::NoGradGuard no_grad;
  const auto table = [&](const char* name, int64_t rows) {
    auto embedding = register_module(name, torch::nn::Embedding(rows, c.dim));
    embedding->weight.normal_(0, nn::start_deviation(c.dim));
    return embedding;
  };
  embedding_ = table("embed_tokens", c.vocab_size);
  if (c.learned_positions) position_embedding_ = table("embed_positions", c.learned_positions);
  blocks = make_blocks(*this, c, true, dtype);
  landmarks_ = make_landmarks(*this, blocks, c.dim);
  reset_landmark();
  norm_ = register_module("norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
  if (!c.tie_embeddings) head_ = register_module("lm_head", nn::started_linear(c.dim, c.vocab_size, false));
  to(dtype);
}

void DecoderLmImpl::reset_landmark() {
  torch::NoGradGuard no_grad;
  if (landmarks_) landmarks_->embedding.copy_(embedding_->weight.mean(0) * config_.embedding_scale);
}

Tensor DecoderLmImpl::embed(const Tensor& tokens, int64_t first_position) {
  check_ids(tokens, config_.vocab_size, "tokens");
  auto x = embedding_(tokens);
  if (config_.embedding_scale != 1) x = x * torch::full({}, config_.embedding_scale, x.options());
  if (!position_embedding_) return x;
  const int64_t end = first_position + tokens.size(1);
  require(end <= config_.learned_positions, "{} tokens: the model has learned positions for {}", end,
          config_.learned_positions);
  return x + position_embedding_(torch::arange(first_position, end));
}

Tensor DecoderLmImpl::hidden(const Tensor& tokens, DecoderState* state, uint64_t seed, Taps* taps) {
  return hidden_of(embed(tokens, state ? state->seen() : 0), state, seed, taps);
}

Tensor DecoderLmImpl::hidden_of(const Tensor& embedded, DecoderState* state, uint64_t seed, Taps* taps) {
  MixerInput input;
  input.x = embedded;
  input.taps = taps;
  AttentionShare share;
  const int64_t seen = state ? state->seen_by_layers() : 0;
  if (landmarks_) input = landmarks_->inserted(std::move(input), seen);
  const int64_t tokens = input.x.size(1) + seen;
  for (const auto& block : blocks) {
    const auto* source = dynamic_cast<const CompanionSource*>(block->mixer.get());
    if (source == nullptr) continue;
    share.companion = source->companion(tokens, [this](const Tensor& ids) { return embed(ids); });
    if (share.companion.defined()) break;
  }
  input.share = &share;
  const auto x = run_blocks(blocks, std::move(input), state ? &state->layers : nullptr, seed);
  return norm_(landmarks_ ? landmarks_->dropped(x, seen) : x);
}

Tensor DecoderLmImpl::logits(const Tensor& hidden) {
  const auto s = head_ ? head_(hidden) : torch::nn::functional::linear(hidden, embedding_->weight);
  const double c = config_.logit_softcap;
  return c > 0 ? torch::tanh(s / c) * c : s;
}

Tensor DecoderLmImpl::forward(const Tensor& tokens, DecoderState* state, uint64_t seed, Taps* taps) {
  return logits(hidden(tokens, state, seed, taps));
}

DecoderState DecoderLmImpl::make_state(int64_t batch) const {
  DecoderState state;
  state.landmark_block = landmark_block();
  for (const auto& block : blocks) state.layers.push_back(block->mixer->make_state(batch));
  return state;
}

}  // namespace heed
