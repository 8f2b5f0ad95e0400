#include "cache/sink_window.h"

#include <algorithm>
#include <numeric>

namespace heed::cache {

using torch::Tensor;

SinkWindow::SinkWindow(const Settings& settings) : s_(settings) {
  if (std::find(s_.full.begin(), s_.full.end(), true) == s_.full.end()) s_.full.clear();
  if (s_.full.empty()) return;
  const auto found = std::find(s_.full.begin(), s_.full.end(), false);
  streaming_head_ = found == s_.full.end() ? -1 : found - s_.full.begin();
}

int64_t SinkWindow::reserved_slots(int64_t tokens) const {
  if (!any_streams()) return tokens;
  // Room is made for all rows alike: where some stream, those that don't grow as they go.
  return s_.full.empty() ? std::min(tokens, capacity(tokens)) : 0;
}

/// Of streaming rows only these slots.
void SinkWindow::keep(const std::vector<int64_t>& slots) {
  std::vector<std::vector<int64_t>> lists;
  for (int64_t r = 0; r < kv_.rows(); ++r) {
    lists.push_back(slots);
    if (streams(r)) continue;
    lists.back().resize(kv_.length(r));
    std::iota(lists.back().begin(), lists.back().end(), 0);
  }
  kv_.keep(lists);
}

/// Recent tokens in the order of the text again.
void SinkWindow::unroll() {
  if (recent_.empty()) return;
  std::vector<int64_t> order(s_.sinks);
  std::iota(order.begin(), order.end(), 0);
  order.insert(order.end(), recent_.begin(), recent_.end());
  keep(order);
  recent_.clear();
}

void SinkWindow::store(const Chunk& chunk) {
  if (!any_streams() || in_prompt() || chunk.size() > 1) {
    unroll();
    return LayerCache::store(chunk);
  }
  const int64_t held = this->held();
  if (held < capacity(chunk.first + 1)) {
    if (!recent_.empty()) recent_.push_back(held);
    return LayerCache::store(chunk);
  }
  if (recent_.empty()) {
    recent_.resize(held - s_.sinks);
    std::iota(recent_.begin(), recent_.end(), s_.sinks);
  }
  const int64_t slot = recent_.front();
  recent_.pop_front();
  recent_.push_back(slot);
  leaving({slot});
  for (int64_t r = 0; r < kv_.rows(); ++r)
    if (streams(r)) {
      const int64_t b = r / kv_.heads(), h = r % kv_.heads();
      kv_.replace(r, slot, chunk.k[b][h][0], chunk.v[b][h][0], chunk.first);
    }
  if (!s_.full.empty()) kv_.append(chunk.k, chunk.v, chunk.first, s_.full);
}

// Attention over the sinks for queries that may see more than fits, joined to `out` over recent tokens. Queries stand
// at their place, at most at the last rank of the cache.
Tensor SinkWindow::over_sinks(const Chunk& chunk, const Tensor& out, const Tensor& lse) const {
  const auto ranks = (torch::arange(chunk.size()) + chunk.first).clamp_max(capacity(seen()) - 1);
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
  if (!any_streams()) return LayerCache::attend_chunk(chunk);
  Tensor lse;
  const bool all_seen = chunk.first + chunk.size() <= capacity(seen());
  if (all_seen || s_.sinks == 0 || !s_.in_cache) {
    const auto mask = Mask(Causal{}) & (Mask(Window{s_.window}) | Mask(SinkTokens{s_.sinks}));
    if (s_.full.empty()) return attend_slots(chunk, mask);
    return attend_heads(chunk, [&](int64_t head) { return s_.full[head] ? Mask(Causal{}) : mask; });
  }
  const auto recent = attend_slots(chunk, Mask(Causal{}) & Mask(Window{s_.window}), &lse);
  return over_sinks(chunk, recent, lse);
}

Tensor SinkWindow::attend_step(const Chunk& chunk) {
  auto options = decode_options(chunk);
  if (chunk.first < capacity(seen()) || s_.sinks == 0 || !s_.in_cache)
    return decode(chunk.q, everything(), options).out;
  const auto part = [&](int64_t begin, int64_t end) {
    if (!kv_.format().exact())
      return gathered(torch::arange(begin, end, torch::kInt32).expand({kv_.batch(), kv_.heads(), end - begin}));
    ops::CacheTensors cache;
    cache.k = kv_.keys().slice(2, begin, end);
    cache.v = kv_.values().slice(2, begin, end);
    cache.lengths = torch::full({kv_.batch(), kv_.heads()}, end - begin, torch::kInt64);
    return cache;
  };
  const auto rank = torch::full({1}, capacity(seen()) - 1, torch::kInt64);
  const auto sinks = decode(rotate(chunk, chunk.call.q, rank), part(0, s_.sinks), options);
  return merge(sinks, decode(chunk.q, part(s_.sinks, capacity(seen())), options)).out;
}

void SinkWindow::shrink() {
  if (!any_streams()) return;
  const int64_t held = this->held(), kept_recent = window(seen());
  if (held <= s_.sinks + kept_recent) return;
  std::vector<int64_t> dropped(held - s_.sinks - kept_recent), kept(s_.sinks + kept_recent);
  std::iota(dropped.begin(), dropped.end(), s_.sinks);
  leaving(dropped);
  std::iota(kept.begin(), kept.begin() + s_.sinks, 0);
  std::iota(kept.begin() + s_.sinks, kept.end(), held - kept_recent);
  keep(kept);
}

}  // namespace heed::cache
