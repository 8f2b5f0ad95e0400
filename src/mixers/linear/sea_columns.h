// From compressed attention maps to keys: maps of K columns, each of which stands for an equal share of the keys that a
// query sees.
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"

namespace heed::linear {

/// The keys that queries see: those without padding, counted by rank, up to a number of each query's own.
struct VisibleKeys {
  torch::Tensor shown;  ///< bool [B, M]: no padding
  torch::Tensor count;  ///< int64 [B, N]: query i sees the first count of the shown keys

  /// int64 [B, M]: how many shown keys stand before each.
  torch::Tensor ranks() const { return shown.cumsum(1) - shown.to(torch::kInt64); }
};

/// Of map [B, H, N, K], the max(1, round(H k K / count)) largest entries of each query over all its heads, of equal
/// ones those of the lower head and column: bool [B, H, N, K].
torch::Tensor kept_columns(const torch::Tensor& map, const torch::Tensor& count, int64_t keys_per_head);

/// Column c of a query stands for its visible keys round(c count / K) to round((c + 1) count / K), that one left out:
/// int64 [B, N, K + 1].
torch::Tensor column_edges(const torch::Tensor& count, int64_t columns);

/// The keys of the kept columns, as lists of single keys for single queries.
BlockListTensors listed_keys(const torch::Tensor& kept, const VisibleKeys& keys);

/// The map as weights of keys, [B, H, N, M]: every visible key has the value of its column, and rows sum to 1.
torch::Tensor stretched(const torch::Tensor& map, const VisibleKeys& keys);

}  // namespace heed::linear
