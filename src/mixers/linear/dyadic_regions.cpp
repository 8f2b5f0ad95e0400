#include "mixers/linear/dyadic_regions.h"

#include <vector>

namespace heed::linear {
namespace {

using torch::Tensor;

/// Blocks of `size` tokens in pairs, from the pair that holds token `first` on: [B, H, pairs, 2, size, D].
struct Pairs {
  int64_t size, begin, tokens;

  Pairs(int64_t size, int64_t first, int64_t tokens)
      : size(size), begin(first / (2 * size) * 2 * size), tokens(tokens - begin) {}

  Tensor cut(const Tensor& t) const {
    const int64_t pairs = (tokens + 2 * size - 1) / (2 * size);
    const auto from = t.narrow(2, begin, tokens);
    return torch::constant_pad_nd(from, {0, 0, 0, 2 * size * pairs - tokens}).unflatten(2, {pairs, 2, size});
  }
  /// [B, H, tokens from `first` on, D]
  Tensor join(const Tensor& t, int64_t first) const {
    return t.flatten(2, 4).narrow(2, first - begin, tokens - (first - begin));
  }
};

}  // namespace

Tensor attend_dyadic(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real, int64_t first,
                     const DyadicRegions& regions) {
  auto pool = regions.pool;
  const int64_t n = q.size(2), fresh = n - first;
  const auto from = [&](const Tensor& t) { return t.narrow(2, first, fresh); };
  const auto own = (from(q) * from(k)).sum(-1, true) * regions.scale;
  std::vector<Tensor> logits{own.masked_fill(from(real) == 0, -INFINITY)}, values{from(v)};
  for (int64_t size = 1; size < n; size *= 2) {
    const Pairs pairs(size, first, n);
    const auto queries = pairs.cut(q), keys = pairs.cut(k), there = pairs.cut(real);
    const auto lowest = std::numeric_limits<float>::lowest();
    const auto inner = (keys * pool->queries(queries, there).unsqueeze(4)).sum(-1, true) * regions.scale;
    const auto weights = torch::softmax(inner.masked_fill(there == 0, lowest), 4) * there;
    // Every token looks at the other block of its pair.
    const auto other = [](const Tensor& t) { return t.flip(3).unsqueeze(4); };
    const auto count = other(there.sum(4)), value = other((weights * pairs.cut(v)).sum(4));
    auto logit = (queries * other(pool->keys(keys, there))).sum(-1, true) * regions.scale;
    if (regions.count_regions) logit = logit + count.clamp_min(1).log();
    logit = logit.masked_fill(count == 0, -INFINITY);
    if (regions.causal) {
      const auto before = torch::arange(2).view({1, 1, 1, 2, 1, 1}) == 0;
      logit = logit.masked_fill(before, -INFINITY);
    }
    logits.push_back(pairs.join(logit, first));
    values.push_back(pairs.join(value.expand({-1, -1, -1, -1, size, -1}), first));
  }
  const auto all = torch::cat(logits, -1);
  // A token that sees nothing gives 0.
  const auto blind = (all == -INFINITY).all(-1, true);
  const auto weights = torch::softmax(all.masked_fill(blind, 0), -1).masked_fill(blind, 0);
  auto out = torch::zeros_like(values[0]);
  for (size_t l = 0; l < values.size(); ++l) out = out + weights.narrow(-1, static_cast<int64_t>(l), 1) * values[l];
  return out;
}

}  // namespace heed::linear
