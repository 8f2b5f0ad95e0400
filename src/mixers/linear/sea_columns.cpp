#include "mixers/linear/sea_columns.h"

namespace heed::linear {

using torch::Tensor;

Tensor kept_columns(const Tensor& map, const Tensor& count, int64_t keys_per_head) {
  const int64_t batch = map.size(0), heads = map.size(1), queries = map.size(2), columns = map.size(3);
  const auto flat = map.detach().transpose(1, 2).reshape({batch, queries, heads * columns});
  const auto order = std::get<1>(flat.sort(c10::optional<bool>(true), -1, true));
  const auto rank = torch::empty_like(order).scatter_(2, order, torch::arange(heads * columns).expand_as(order));
  const auto seen = count.clamp_min(1).unsqueeze(2);
  const auto budget = ((2 * heads * keys_per_head * columns + seen).div(2 * seen, "floor")).clamp_min(1);
  return (rank < budget).view({batch, queries, heads, columns}).transpose(1, 2);
}

Tensor column_edges(const Tensor& count, int64_t columns) {
  return (count.unsqueeze(2) * (2 * torch::arange(columns + 1)) + columns).div(2 * columns, "floor");
}

BlockListTensors listed_keys(const Tensor& kept, const VisibleKeys& keys) {
  const int64_t batch = kept.size(0), heads = kept.size(1), queries = kept.size(2), columns = kept.size(3);
  const auto edges = column_edges(keys.count, columns).unsqueeze(1);
  const auto width = ((edges.slice(3, 1) - edges.slice(3, 0, columns)) * kept).flatten();
  const auto ends = width.cumsum(0), first = edges.slice(3, 0, columns).expand_as(kept).flatten();
  const auto rank =
      torch::repeat_interleave(first - (ends - width), width) + torch::arange(width.sum().item<int64_t>());
  auto key = rank;
  if (keys.shown.logical_not().any().item<bool>()) {
    // The key of each rank: shown ones first, in order.
    const auto by_rank =
        std::get<1>(keys.shown.logical_not().to(torch::kInt8).sort(c10::optional<bool>(true), 1, false));
    const auto of = torch::arange(batch).view({-1, 1}).expand({batch, heads * queries * columns}).flatten();
    key = by_rank.index({torch::repeat_interleave(of, width), rank});
  }
  const auto offsets = torch::constant_pad_nd(ends.view({-1, columns}).select(1, columns - 1), {1, 0}, 0);
  return {offsets.contiguous(), key.to(torch::kInt32).contiguous(), batch, heads, 1, 1};
}

Tensor stretched(const Tensor& map, const VisibleKeys& keys) {
  const int64_t columns = map.size(3);
  const auto rank = keys.ranks().unsqueeze(1), seen = keys.count.unsqueeze(2);
  const auto visible = (rank < seen) & keys.shown.unsqueeze(1);
  // The c with edges[c] <= rank < edges[c + 1].
  const auto twice = 2 * seen.clamp_min(1);
  const auto column = ((2 * rank + 1) * columns + twice - 1).div(twice, "floor").sub(1).clamp(0, columns - 1);
  const auto weights =
      map.gather(3, column.unsqueeze(1).expand({-1, map.size(1), -1, -1})).masked_fill(~visible.unsqueeze(1), 0);
  return weights / weights.sum(3, true).clamp_min(1e-30);
}

}  // namespace heed::linear
