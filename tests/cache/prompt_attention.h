// Policies that skip pairs of a prompt, run on random queries, keys and values without a model around them.
#pragma once

#include <gtest/gtest.h>

#include "heed/cache/policy.h"

namespace heed::testing {

struct Prompt {
  torch::Tensor q, k, v;  // [B, Hq, N, 16], [B, Hkv, N, 16]
  Prompt(int64_t batch, int64_t heads, int64_t kv_heads, int64_t length, uint64_t seed) {
    torch::manual_seed(seed);
    q = 2 * torch::randn({batch, heads, length, 16});
    k = torch::randn({batch, kv_heads, length, 16});
    v = torch::randn({batch, kv_heads, length, 16});
  }
  /// Scaled causal weights of rows [first, N) after softmax, double [B, Hq, N - first, N].
  torch::Tensor weights(int64_t first) const {
    const auto keys = k.repeat_interleave(q.size(1) / k.size(1), 1).to(torch::kFloat64);
    return torch::softmax(hide(torch::matmul(q.slice(2, first).to(torch::kFloat64), keys.transpose(2, 3)) / 4, first),
                          3);
  }
  /// Attention of rows [first, N) under a mask bool [B, Hq, N - first, N].
  torch::Tensor masked(int64_t first, const torch::Tensor& mask) const {
    const auto weights = this->weights(first).masked_fill(~mask, 0);
    const auto values = v.repeat_interleave(q.size(1) / v.size(1), 1).to(torch::kFloat64);
    return torch::matmul(weights / weights.sum(3, true), values);
  }
  static torch::Tensor causal(int64_t rows, int64_t first) {
    return torch::arange(first + rows) <= torch::arange(first, first + rows).unsqueeze(1);
  }

 private:
  static torch::Tensor hide(const torch::Tensor& scores, int64_t first) {
    return scores.masked_fill(~causal(scores.size(2), first), -INFINITY);
  }
};

/// Feeds tokens [first, end) of a prompt to a cache of one layer.
inline torch::Tensor feed(cache::LayerCache& cache, const Prompt& prompt, int64_t first, int64_t end) {
  static nn::Positions none(nn::PositionsConfig{}, 16, 4, true);
  const auto part = [&](const torch::Tensor& x) { return x.slice(2, first, end); };
  CacheCall call{{0, 1}, part(prompt.q), part(prompt.k), part(prompt.v), torch::arange(first, end), none.get(), {}};
  call.options.mask = Causal{};
  return cache.attend(call);
}

inline std::unique_ptr<cache::LayerCache> one_layer(const char* policy, const nlohmann::json& settings, int64_t heads) {
  cache::ModelShape shape;
  shape.layers = 1;
  shape.heads = heads;
  return cache::make_policy(policy, settings, shape)({0, 1});
}

/// Relative to the values' size, which is about 3.
inline void expect_same(const torch::Tensor& got, const torch::Tensor& want) {
  EXPECT_LE((got.to(torch::kFloat64) - want).abs().max().item<double>(), 1e-5);
}

}  // namespace heed::testing
