// One LayerCache driven by given tensors, and what it must compute, by the formula in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "heed/cache/policy.h"

namespace heed::testing {

/// Unrotated queries, keys and values of one layer.
struct LayerText {
  torch::Tensor q, k, v;  ///< [B, Hq, N, D], [B, Hkv, N, D], [B, Hkv, N, Dv]
  nn::Positions encoding{nullptr};
  double scale = 0;

  int64_t length() const { return q.size(2); }
  int64_t group() const { return q.size(1) / k.size(1); }
  double factor() const { return scale == 0 ? 1 / std::sqrt(double(q.size(3))) : scale; }
};

/// Random, of a spread that makes attention concentrate on a few keys; keys of a head have a direction in common with
/// its queries.
inline LayerText random_text(int64_t batch, int64_t heads, int64_t kv_heads, int64_t length, uint64_t seed,
                             const std::string& positions = "rope", int64_t dim = 16) {
  torch::manual_seed(seed);
  LayerText text;
  text.q = 1.5 * torch::randn({batch, heads, length, dim});
  text.k = 1.5 * torch::randn({batch, kv_heads, length, dim});
  text.v = torch::randn({batch, kv_heads, length, dim});
  nn::PositionsConfig config;
  config.kind = positions;
  text.encoding = nn::Positions(config, heads * dim, heads, true);
  return text;
}

inline cache::ModelShape shape_of(const LayerText& text) {
  return {1, text.q.size(1), text.k.size(1), text.q.size(3), 4096, text.encoding->config()};
}

/// Tokens [from, to) in one call.
inline torch::Tensor feed(AttentionCache& cache, const LayerText& text, int64_t from, int64_t to) {
  const auto part = [&](const torch::Tensor& x) { return x.slice(2, from, to); };
  AttentionOptions options;
  options.mask = Causal{};
  options.scale = text.scale;
  return cache.attend(
      {{}, part(text.q), part(text.k), part(text.v), torch::arange(from, to), text.encoding.get(), options});
}

/// The prompt in chunks, the rest in steps: outputs [B, Hq, N, Dv].
inline torch::Tensor drive(cache::LayerCache& cache, const LayerText& text, int64_t prompt, int64_t chunk) {
  std::vector<torch::Tensor> parts;
  for (int64_t i = 0; i < prompt; i += chunk) parts.push_back(feed(cache, text, i, std::min(i + chunk, prompt)));
  cache.finish_prompt();
  for (int64_t i = prompt; i < text.length(); ++i) parts.push_back(feed(cache, text, i, i + 1));
  return torch::cat(parts, 2);
}

/// What a query reads: the tokens `keys`, which stand at `places`, asked from `place`.
struct Read {
  std::vector<int64_t> keys, places;
  int64_t place = 0;

  /// Everything where it stands in the text.
  static Read absolute(std::vector<int64_t> keys, int64_t query) {
    Read read{keys, keys, query};
    return read;
  }
  /// Keys at their ranks, of which the last is the query's own.
  static Read ranked(std::vector<int64_t> keys) {
    Read read{std::move(keys), {}, 0};
    for (size_t i = 0; i < read.keys.size(); ++i) read.places.push_back(int64_t(i));
    read.place = int64_t(read.keys.size()) - 1;
    return read;
  }
};

struct Attended {
  torch::Tensor out;     ///< double [Dv]
  torch::Tensor logits;  ///< double [keys]
};

/// Query (b, h, i) over what it reads.
inline Attended attend_reference(const LayerText& text, int64_t b, int64_t h, int64_t i, const Read& read) {
  const auto wide = [](const torch::Tensor& x) { return x.to(torch::kFloat64).unsqueeze(0).unsqueeze(0); };
  const auto index = torch::tensor(read.keys, torch::kInt64);
  const auto at = [&](int64_t place) { return torch::full({1}, place, torch::kInt64); };
  const auto q = text.encoding->rotate(wide(text.q[b][h].narrow(0, i, 1)), at(read.place));
  const auto k = text.encoding->rotate(wide(text.k[b][h / text.group()].index_select(0, index)),
                                       torch::tensor(read.places, torch::kInt64));
  const auto logits = (text.factor() * q.matmul(k.transpose(2, 3))).flatten();
  const auto v = text.v[b][h / text.group()].index_select(0, index).to(torch::kFloat64);
  return {logits.softmax(0).matmul(v), logits};
}

/// Every token up to the query, where it stands.
inline Attended attend_all(const LayerText& text, int64_t b, int64_t h, int64_t i) {
  std::vector<int64_t> keys(i + 1);
  std::iota(keys.begin(), keys.end(), 0);
  return attend_reference(text, b, h, i, Read::absolute(keys, i));
}

/// What query (b, h, i) got from a part of its keys, where they stand, is off by at most twice the mass left out times
/// the longest value; and the divergence of the part from the whole is exactly that mass's -log.
inline void expect_within_retained_mass(const LayerText& text, int64_t b, int64_t h, int64_t i,
                                        const std::vector<int64_t>& keys, const torch::Tensor& got) {
  const auto all = attend_all(text, b, h, i);
  const auto weights = all.logits.softmax(0).index_select(0, torch::tensor(keys, torch::kInt64));
  const double mass = weights.sum().item<double>();
  const double longest = text.v[b][h / text.group()].slice(0, 0, i + 1).norm(2, 1).max().item<double>();
  constexpr double kRounding = 1e-5;
  EXPECT_LE((got - all.out).norm().item<double>(), 2 * (1 - mass) * longest + kRounding) << b << " " << h << " " << i;
  const auto part = attend_reference(text, b, h, i, Read::absolute(keys, i)).logits.softmax(0);
  EXPECT_NEAR((part * (part / weights).log()).sum().item<double>(), -std::log(mass), 1e-9);
}

/// The k largest of a row, ties to the lower index, ascending.
inline std::vector<int64_t> largest(const torch::Tensor& row, int64_t k) {
  const auto values = row.to(torch::kFloat64).contiguous();
  std::vector<int64_t> order(values.numel());
  std::iota(order.begin(), order.end(), 0);
  const auto* v = values.data_ptr<double>();
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return v[a] > v[b]; });
  order.resize(std::min<size_t>(order.size(), k));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace heed::testing
