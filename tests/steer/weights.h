// Interventions whose values are one-hot, so that what a layer gives are its weights; and the weights by the formula.
#pragma once

#include <cmath>

#include "cache/layer_driver.h"
#include "heed/steer/intervention.h"

namespace heed::testing {

/// A text whose value of token j is the j-th unit vector in every head.
inline LayerText one_hot_text(int64_t batch, int64_t heads, int64_t kv_heads, int64_t length, uint64_t seed) {
  auto text = random_text(batch, heads, kv_heads, length, seed);
  text.v = torch::eye(length).view({1, 1, length, length}).repeat({batch, kv_heads, 1, 1});
  return text;
}

/// Softmax weights double [B, Hq, N, N].
inline torch::Tensor plain_weights(const LayerText& text) {
  const auto positions = torch::arange(text.length());
  const auto q = text.encoding->rotate(text.q.to(torch::kFloat64), positions);
  const auto k = text.encoding->rotate(text.k.to(torch::kFloat64), positions).repeat_interleave(text.group(), 1);
  auto logits = text.factor() * q.matmul(k.transpose(2, 3));
  logits.masked_fill_(torch::ones({text.length(), text.length()}, torch::kBool).triu(1), -INFINITY);
  return logits.softmax(3);
}

/// Weights [B, Hq, N, N] under an intervention in layer 0 of one: a prompt in chunks, then steps.
inline torch::Tensor weights_under(const char* name, nlohmann::json settings, const LayerText& text, int64_t prompt,
                                   int64_t chunk, const torch::Tensor& residual = {}) {
  settings.update({{"first_layer", 0}, {"last_layers", 0}});
  const auto cache = steer::make_intervention(name, settings, shape_of(text))({0, 1});
  const auto feed_part = [&](int64_t from, int64_t to) {
    const auto part = [&](const torch::Tensor& x) { return x.slice(2, from, to); };
    AttentionOptions options;
    options.mask = Causal{};
    options.scale = text.scale;
    const auto stream = residual.defined() ? residual.slice(1, from, to) : residual;
    return cache->attend(
        {{}, part(text.q), part(text.k), part(text.v), torch::arange(from, to), text.encoding.get(), options, stream});
  };
  std::vector<torch::Tensor> parts;
  for (int64_t i = 0; i < prompt; i += chunk) parts.push_back(feed_part(i, std::min(i + chunk, prompt)));
  cache->finish_prompt();
  for (int64_t i = prompt; i < text.length(); ++i) parts.push_back(feed_part(i, i + 1));
  return torch::cat(parts, 2);
}

inline double most(const torch::Tensor& x) { return x.abs().max().item<double>(); }

}  // namespace heed::testing
