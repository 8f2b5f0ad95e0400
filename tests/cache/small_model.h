// A decoder small enough for every policy's tests, with weights large enough that heads attend to something.
#pragma once

#include "heed/cache/session.h"

namespace heed::testing {

/// Layers of `heads` query heads over `kv_heads`, random weights of a fixed seed.
inline DecoderLm small_decoder(int64_t heads = 4, int64_t kv_heads = 2, int64_t layers = 2,
                               const char* positions = "rope") {
  DecoderConfig config;
  config.vocab_size = 40;
  config.dim = 32;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = 16;
  config.hidden = 48;
  config.positions.kind = positions;
  config.layers.resize(layers);
  torch::manual_seed(11);
  DecoderLm model(config);
  torch::NoGradGuard no_grad;
  for (auto& p : model->named_parameters())
    if (p.value().dim() == 2) p.value().normal_(0, p.key().find("embed") != std::string::npos ? 1.0 : 0.25);
  return model;
}

inline torch::Tensor random_tokens(int64_t batch, int64_t length, uint64_t seed) {
  torch::manual_seed(seed);
  return torch::randint(40, {batch, length}, torch::kInt64);
}

/// Sequence b of `tokens` [B, N] where it was, the others replaced. A batch of the same shape, since how a matrix
/// product rounds may depend on its rows, and codes and selections make a large difference of a rounding.
inline torch::Tensor among_others(const torch::Tensor& tokens, int64_t b) {
  auto others = random_tokens(tokens.size(0), tokens.size(1), 1000 + uint64_t(b));
  others[b] = tokens[b];
  return others;
}

inline double largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

}  // namespace heed::testing
