#include "heed/models/encoder.h"

#include "heed/error.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

EncoderImpl::EncoderImpl(EncoderConfig config, torch::ScalarType dtype) : config_(std::move(config)) {
  const auto& c = config_;
  torch::NoGradGuard no_grad;
  const auto table = [&](const char* name, int64_t rows) {
    auto embedding = register_module(name, torch::nn::Embedding(rows, c.dim));
    embedding->weight.normal_(0, nn::start_deviation(c.dim));
    return embedding;
  };
  const auto linear = [&](const char* name, int64_t out) {
    return register_module(name, nn::started_linear(c.dim, out));
  };
  tokens_ = table("embed_tokens", c.vocab_size);
  positions_ = table("embed_positions", c.position_rows);
  types_ = table("embed_types", c.token_types);
  norm_ = register_module("embed_norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
  blocks = make_blocks(*this, c, false, dtype);
  if (c.pooler) pooler_ = linear("pooler", c.dim);
  if (c.mlm_head) {
    mlm_dense_ = linear("mlm_dense", c.dim);
    mlm_norm_ = register_module("mlm_norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
    if (c.tie_embeddings)
      mlm_bias_ = register_parameter("mlm_bias", torch::zeros({c.vocab_size}));
    else
      mlm_decoder_ = linear("mlm_decoder", c.vocab_size);
  }
  to(dtype);
}

Tensor EncoderImpl::positions(const Tensor& tokens) const {
  if (!config_.position_padding_id) return torch::arange(tokens.size(1));
  // Padding keeps the padding's own position.
  const auto real = tokens.ne(*config_.position_padding_id).to(torch::kInt64);
  return real.cumsum(1) * real + *config_.position_padding_id;
}

Tensor EncoderImpl::forward(const EncoderInput& in) {
  check_ids(in.tokens, config_.vocab_size, "tokens");
  const auto types = in.token_types.value_or(torch::zeros_like(in.tokens));
  check_ids(types, config_.token_types, "token_types");
  require(types.sizes() == in.tokens.sizes(), "token_types: [{}, {}] is accepted, as the tokens are", in.tokens.size(0),
          in.tokens.size(1));
  const int64_t longest = config_.position_rows - (config_.position_padding_id ? *config_.position_padding_id + 1 : 0);
  require(in.tokens.size(1) <= longest, "{} tokens: the encoder has positions for {}", in.tokens.size(1), longest);
  MixerInput input;
  input.x = norm_(tokens_(in.tokens) + positions_(positions(in.tokens)) + types_(types));
  input.key_padding = in.key_padding;
  input.taps = in.taps;
  return run_blocks(blocks, std::move(input), nullptr, in.seed);
}

Tensor EncoderImpl::pooled(const Tensor& hidden) {
  require(bool(pooler_), "this encoder has no pooler");
  return torch::tanh(pooler_(hidden.select(1, 0)));
}

Tensor EncoderImpl::mlm_logits(const Tensor& hidden) {
  require(bool(mlm_dense_), "this encoder has no head that predicts masked tokens");
  const auto x = mlm_norm_(activate(mlm_dense_(hidden), config_.mlm_activation));
  return mlm_decoder_ ? mlm_decoder_(x) : torch::nn::functional::linear(x, tokens_->weight, mlm_bias_);
}

}  // namespace heed
