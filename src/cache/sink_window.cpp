#include "cache/sink_window.h"

#include <numeric>

namespace heed::cache {

using torch::Tensor;

/// Recent tokens in the order of the text again.
void SinkWindow::unroll() {
  if (oldest_ == 0) return;
  std::vector<int64_t> order(capacity());
  std::iota(order.begin(), order.end(), 0);
  std::rotate(order.begin() + s_.sinks, order.begin() + s_.sinks + oldest_, order.end());
  kv_.keep(std::vector<std::vector<int64_t>>(kv_.rows(), order));
  oldest_ = 0;
}

void SinkWindow::store(const Chunk& chunk) {
  if (in_prompt() || chunk.size() > 1 || kv_.longest() < capacity()) {
    unroll();
    return LayerCache::store(chunk);
  }
  for (int64_t r = 0; r < kv_.rows(); ++r) {
    const int64_t b = r / kv_.heads(), h = r % kv_.heads();
    kv_.replace(r, s_.sinks + oldest_, chunk.k[b][h][0], chunk.v[b][h][0], chunk.first);
  }
  oldest_ = (oldest_ + 1) % s_.window;
}

// Attention over the sinks for queries that may see more than fits, joined to `out` over recent tokens. Queries stand
// at their place, at most at the last rank of the cache.
Tensor SinkWindow::over_sinks(const Chunk& chunk, const Tensor& out, const Tensor& lse) const {
  const auto ranks = (torch::arange(chunk.size()) + chunk.first).clamp_max(capacity() - 1);
  const auto q = s_.in_cache ? rotate(chunk, chunk.call.q, ranks) : chunk.q;
  AttentionOptions options = chunk.call.options;
  options.mask = {};
  const int64_t sinks = std::min(s_.sinks, kv_.longest());
  // A query sees the sinks that left its window: those at most at its place - window.
  const auto last = (torch::arange(chunk.size()) + chunk.first - s_.window).view({-1, 1});
  const auto hidden = torch::arange(sinks).view({1, -1}).gt(last);
  options.bias = torch::zeros({1, 1, chunk.size(), sinks}).masked_fill(hidden, -INFINITY);
  const auto side = attention_with_lse(q, kv_.keys().narrow(2, 0, sinks), kv_.values().narrow(2, 0, sinks), options);
  return merge({out, lse.unsqueeze(-1)}, {side.out, side.lse.unsqueeze(-1)}).out;
}

Tensor SinkWindow::attend_chunk(const Chunk& chunk) {
  Tensor lse;
  const bool all_seen = chunk.first + chunk.size() <= capacity();
  if (all_seen || s_.sinks == 0 || !s_.in_cache) {
    return attend_slots(chunk, Mask(Causal{}) & (Mask(Window{s_.window}) | Mask(SinkTokens{s_.sinks})));
  }
  const auto recent = attend_slots(chunk, Mask(Causal{}) & Mask(Window{s_.window}), &lse);
  return over_sinks(chunk, recent, lse);
}

Tensor SinkWindow::attend_step(const Chunk& chunk) {
  ops::DecodeOptions options;
  options.scale = chunk.call.options.scale;
  options.softcap = chunk.call.options.softcap;
  options.mask = {};
  if (chunk.first < capacity() || s_.sinks == 0 || !s_.in_cache) return decode(chunk.q, everything(), options).out;
  const auto part = [&](int64_t begin, int64_t end) {
    ops::CacheTensors cache;
    cache.k = kv_.keys().slice(2, begin, end);
    cache.v = kv_.values().slice(2, begin, end);
    cache.lengths = torch::full({kv_.batch(), kv_.heads()}, end - begin, torch::kInt64);
    return cache;
  };
  const auto rank = torch::full({1}, capacity() - 1, torch::kInt64);
  const auto sinks = decode(rotate(chunk, chunk.call.q, rank), part(0, s_.sinks), options);
  return merge(sinks, decode(chunk.q, part(s_.sinks, capacity()), options)).out;
}

void SinkWindow::after_chunk(const Chunk&) {
  const int64_t length = kv_.longest();
  if (length <= capacity()) return;
  std::vector<int64_t> kept(capacity());
  std::iota(kept.begin(), kept.begin() + s_.sinks, 0);
  std::iota(kept.begin() + s_.sinks, kept.end(), length - s_.window);
  kv_.keep(std::vector<std::vector<int64_t>>(kv_.rows(), kept));
}

}  // namespace heed::cache
