#include "heed/nn/row_attention.h"

#include "heed/error.h"
#include "heed/nn/keys.h"
#include "heed/nn/recompute.h"

namespace heed::nn {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 64;
/// Keys are gathered where a tile sees at most this share of them.
constexpr double kFew = 0.75;

/// [B|1, H|1, ...] -> [batch, heads, ...]; a head of keys stands once for each of its query heads.
Tensor for_heads(const Tensor& x, int64_t batch, int64_t heads) {
  auto sizes = x.sizes().vec();
  const auto per_head = x.size(1) == 1 || x.size(1) == heads ? x : x.repeat_interleave(heads / x.size(1), 1);
  sizes[0] = batch;
  sizes[1] = heads;
  return per_head.expand(sizes);
}

/// Keys that some row of some query head of each key head sees, as [B, Hk, K], those that are seen first.
Tensor seen_keys(const Tensor& visible, int64_t batch, int64_t key_heads) {
  auto seen = visible.any(2);  // [B|1, H|1, M]
  if (seen.size(1) > key_heads) seen = seen.unflatten(1, {key_heads, -1}).any(2);
  const int64_t most = std::max<int64_t>(1, seen.sum(2).max().item<int64_t>());
  const auto order = std::get<1>(seen.to(torch::kUInt8).sort(c10::optional<bool>(true), 2, true)).slice(2, 0, most);
  return order.expand({batch, key_heads, most});
}

struct Tile {
  Tensor q, k, v;
  AttentionOptions options;
};

/// One tile of rows: the keys it sees, and a bias that hides from each row those of other rows.
Tile make_tile(const Tensor& rows, const Tensor& k, const Tensor& v, const Tensor& bias, AttentionOptions options,
               Tensor visible) {
  const int64_t batch = rows.size(0), heads = rows.size(1), keys = k.size(2);
  Tile tile{rows, k, v, std::move(options)};
  auto term = bias;
  const auto index = seen_keys(visible, batch, k.size(1));
  if (double(index.size(2)) <= kFew * double(keys)) {
    tile.k = gather_rows(k, index);
    tile.v = gather_rows(v, v.size(1) == k.size(1) ? index : for_heads(index, batch, v.size(1)));
    const auto by_head = for_heads(index, batch, heads).unsqueeze(2);
    const auto chosen = [&](const Tensor& x) {
      return for_heads(x, batch, heads).gather(3, by_head.expand({batch, heads, x.size(2), index.size(2)}));
    };
    visible = chosen(visible);
    if (term.defined()) term = chosen(term);
  } else {
    visible = for_heads(visible, batch, visible.size(1) == 1 ? 1 : heads);
  }
  const auto type = rows.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const auto shown = term.defined() ? term.to(type) : torch::zeros({1, 1, 1, 1}, type);
  tile.options.bias = torch::where(visible, shown, torch::full({}, -INFINITY, type)).contiguous();
  return tile;
}

/// Places of each row's scores, the largest first, ties in their order; what is no candidate comes last.
Tensor descending(const Tensor& scores, const Tensor& candidates) {
  const auto ranked = scores.detach().masked_fill(candidates.logical_not(), -INFINITY);
  return std::get<1>(ranked.sort(c10::optional<bool>(true), -1, true));
}

}  // namespace

Tensor row_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                     const RowChoice& choice, CoreReport* report) {
  require(
      options.mask.everything() && !options.q_documents && !options.alibi_slopes && !options.blocks && !options.cu_q,
      "row attention: the choice of keys says what is visible; masks, documents and slopes are not accepted");
  const int64_t n = q.size(2);
  std::vector<Tensor> outs, lses;
  int64_t pairs = 0;
  for (int64_t first = 0; first < n; first += kRows) {
    const int64_t rows = std::min(kRows, n - first);
    auto own = options;
    own.seed = options.seed + uint64_t(first);
    own.bias.reset();
    Tensor bias;
    if (options.bias) bias = options.bias->size(2) > 1 ? options.bias->narrow(2, first, rows) : *options.bias;
    const auto queries = q.narrow(2, first, rows);
    if (report) {
      const auto visible = choice(first, rows);
      pairs += for_heads(visible, q.size(0), q.size(1)).sum().item<int64_t>();
      const auto tile = make_tile(queries, k, v, bias, own, visible);
      lses.push_back(attention_with_lse(tile.q, tile.k, tile.v, tile.options).lse);
    }
    outs.push_back(recomputed(
        [own, choice, first, rows](const std::vector<Tensor>& in) {
          Tensor visible;
          {
            torch::NoGradGuard no_grad;
            visible = choice(first, rows);
          }
          const auto tile = make_tile(in[0], in[1], in[2], in[3], own, visible);
          return attention(tile.q, tile.k, tile.v, tile.options);
        },
        {queries, k, v, bias}));
  }
  if (report) {
    report->pairs = pairs;
    if (!options.bias && options.softcap == 0 && options.scale == 0 && options.dropout == 0)
      report->lse = torch::cat(lses, 2);
  }
  return outs.empty() ? q.new_empty({q.size(0), q.size(1), 0, v.size(3)}) : torch::cat(outs, 2);
}

Tensor largest(const Tensor& scores, const Tensor& candidates, int64_t count) {
  if (count >= scores.size(-1)) return candidates.expand(scores.sizes());
  const auto order = descending(scores, candidates).narrow(-1, 0, count);
  return torch::zeros(scores.sizes(), torch::kBool).scatter_(-1, order, true).logical_and_(candidates);
}

Tensor largest_share(const Tensor& scores, const Tensor& candidates, double share) {
  const auto there = candidates.expand(scores.sizes());
  if (share >= 1) return there;
  // A product such as 0.07 * 100, which rounds to above 7, is 7.
  const auto counts = (there.sum(-1, true).to(torch::kFloat64) * share - 1e-9).ceil();
  const auto order = descending(scores, candidates);
  const auto ranks = torch::empty_like(order).scatter_(-1, order, torch::arange(order.size(-1)).expand_as(order));
  return (ranks < counts).logical_and_(there);
}

}  // namespace heed::nn
