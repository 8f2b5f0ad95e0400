#include "heed/models/cross_skip.h"

#include "heed/error.h"

namespace heed {

using torch::Tensor;

CrossSkipImpl::CrossSkipImpl(int64_t dim, const CrossSkipConfig& config) : config_(config) {
  require(config.depth >= 0, "{} exchanges of a skip; 0 or more are accepted", config.depth);
  const auto ask = [&](const std::string& name) {
    Ask made;
    made.norm = register_module(name + "_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim})));
    made.attention = register_module(
        name,
        make_mixer("dense", {{"dim", dim}, {"heads", config.heads}, {"head_dim", config.head_dim}, {"causal", false}}));
    return made;
  };
  for (int64_t i = 0; i < config.depth; ++i) {
    of_decoder_.push_back(ask("decoder_" + std::to_string(i)));
    of_encoder_.push_back(ask("encoder_" + std::to_string(i)));
  }
  join_ = register_module("join", torch::nn::Linear(2 * dim, dim));
}

Tensor CrossSkipImpl::Ask::operator()(const Tensor& global, const Tensor& cells) {
  MixerInput input;
  input.x = norm(global);
  input.memory = torch::cat({input.x, cells}, 1);
  return global + attention->forward(input);
}

std::pair<Tensor, Tensor> CrossSkipImpl::exchange(const Tensor& decoder, const Tensor& encoder) {
  auto of_decoder = decoder.mean(1, true), of_encoder = encoder.mean(1, true);
  for (size_t i = 0; i < of_decoder_.size(); ++i) {
    of_decoder = of_decoder_[i](of_decoder, encoder);
    of_encoder = of_encoder_[i](of_encoder, decoder);
  }
  return {of_decoder, of_encoder};
}

Tensor CrossSkipImpl::forward(const Tensor& decoder, const Tensor& encoder) {
  require(decoder.sizes() == encoder.sizes(), "the two sides of a skip have as many cells and channels");
  if (config_.depth == 0) return join_(torch::cat({decoder, encoder}, 2));
  const auto put_back = [&](const Tensor& cells, const Tensor& global) {
    return config_.first_cell ? torch::cat({global, cells.slice(1, 1)}, 1) : cells + global;
  };
  const auto [of_decoder, of_encoder] = exchange(decoder, encoder);
  return join_(torch::cat({put_back(decoder, of_decoder), put_back(encoder, of_encoder)}, 2));
}

}  // namespace heed
