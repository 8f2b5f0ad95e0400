#include "heed/models/decoder_lm.h"

#include "heed/error.h"

namespace heed {

using torch::Tensor;

bool DecoderConfig::is_llama() const {
  if (positions.kind != "rope" || positions.rope.interleaved || positions.rope.rotary_dim) return false;
  for (const auto& layer : layers)
    if (layer.mixer != "dense" || !layer.config.empty()) return false;
  return true;
}

int64_t DecoderState::bytes() const {
  int64_t total = 0;
  for (const auto& layer : layers) total += layer->bytes();
  return total;
}

RmsNormImpl::RmsNormImpl(int64_t dim, double eps)
    : weight(register_parameter("weight", torch::ones({dim}))), eps_(eps) {}

Tensor RmsNormImpl::forward(const Tensor& x) {
  const auto wide = x.scalar_type() == torch::kFloat64 ? x : x.to(torch::kFloat32);
  return (wide * torch::rsqrt(wide.square().mean(-1, true) + eps_)).to(x.scalar_type()) * weight;
}

DecoderBlockImpl::DecoderBlockImpl(const DecoderConfig& c, int64_t layer) {
  const auto& plan = c.layers[layer];
  auto json = plan.config.is_null() ? nlohmann::json::object() : plan.config;
  auto set = [&](const char* key, const nlohmann::json& value) {
    if (!json.contains(key)) json[key] = value;
  };
  set("dim", c.dim);
  set("heads", c.heads);
  set("kv_heads", c.kv_heads);
  set("head_dim", c.head_dim);
  set("max_length", c.max_length);
  set("bias", c.attention_bias);
  set("positions", c.positions.to_json());
  input_norm = register_module("input_layernorm", RmsNorm(c.dim, c.norm_eps));
  mixer = register_module("self_attn", make_mixer(plan.mixer, json));
  mlp_norm = register_module("post_attention_layernorm", RmsNorm(c.dim, c.norm_eps));
  auto linear = [](int64_t in, int64_t out) {
    return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
  };
  gate_proj = register_module("gate_proj", linear(c.dim, c.hidden));
  up_proj = register_module("up_proj", linear(c.dim, c.hidden));
  down_proj = register_module("down_proj", linear(c.hidden, c.dim));
}

Tensor DecoderBlockImpl::forward(const MixerInput& input, MixerState* state) {
  auto inner = input;
  inner.x = input_norm(input.x);
  const auto x = input.x + mixer->forward(inner, state);
  const auto y = mlp_norm(x);
  return x + down_proj(torch::silu(gate_proj(y)) * up_proj(y));
}

DecoderLmImpl::DecoderLmImpl(DecoderConfig config) : config_(std::move(config)) {
  const auto& c = config_;
  require(!c.layers.empty(), "a decoder has at least one layer");
  embedding_ = register_module("embed_tokens", torch::nn::Embedding(c.vocab_size, c.dim));
  for (size_t i = 0; i < c.layers.size(); ++i)
    blocks.push_back(register_module("layers_" + std::to_string(i), DecoderBlock(c, int64_t(i))));
  norm_ = register_module("norm", RmsNorm(c.dim, c.norm_eps));
  if (!c.tie_embeddings)
    head_ = register_module("lm_head", torch::nn::Linear(torch::nn::LinearOptions(c.dim, c.vocab_size).bias(false)));

  // GPT-2's rule: N(0, 0.02), and what adds to the residual stream is scaled by 1 / sqrt(2 L).
  torch::NoGradGuard no_grad;
  const double residual = 0.02 / std::sqrt(2.0 * double(c.layers.size()));
  embedding_->weight.normal_(0, 0.02);
  if (head_) head_->weight.normal_(0, 0.02);
  for (auto& block : blocks) {
    block->gate_proj->weight.normal_(0, 0.02);
    block->up_proj->weight.normal_(0, 0.02);
    block->down_proj->weight.normal_(0, residual);
    for (auto& parameter : block->mixer->named_parameters())
      if (parameter.key() == "o_proj.weight") parameter.value().normal_(0, residual);
  }
}

Tensor DecoderLmImpl::hidden(const Tensor& tokens, DecoderState* state, uint64_t seed, Taps* taps) {
  require(tokens.dim() == 2 && tokens.scalar_type() == torch::kInt64, "tokens: int64 [batch, tokens] is accepted");
  MixerInput input;
  input.x = embedding_(tokens);
  input.taps = taps;
  input.layer.count = int64_t(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    input.layer.index = int64_t(i);
    input.seed = seed * 0x9E3779B97F4A7C15ull + i;
    input.x = blocks[i]->forward(input, state ? state->layers[i].get() : nullptr);
  }
  return norm_(input.x);
}

Tensor DecoderLmImpl::logits(const Tensor& hidden) {
  return head_ ? head_(hidden) : torch::nn::functional::linear(hidden, embedding_->weight);
}

Tensor DecoderLmImpl::forward(const Tensor& tokens, DecoderState* state, uint64_t seed, Taps* taps) {
  return logits(hidden(tokens, state, seed, taps));
}

DecoderState DecoderLmImpl::make_state(int64_t batch) const {
  DecoderState state;
  for (const auto& block : blocks) state.layers.push_back(block->mixer->make_state(batch));
  return state;
}

}  // namespace heed
