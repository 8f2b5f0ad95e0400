// The entries behind the dispatch for functionals of attention weights, chosen rows of them, and their gradients.
#pragma once

#include "heed/kernels/attn_stats.h"
#include "kernels/cpu/flash_task.h"

namespace heed::kernels {

/// Query rows [begin, end) of one (sequence, head) for attn_stats, with column and diagonal sums of their own.
struct StatsItem {
  BlockItem rows;
  double *columns, *diagonals;  ///< [keys of the sequence], zeroed; null: not asked
};
void run_stats_item(const FlashTask& task, const AttnStats& stats, const StatsItem& item, void* scratch);
int64_t stats_scratch_bytes(const FlashTask& task, const AttnStats& stats);

/// A run of consecutive query rows of one (sequence, head), at most kBlockRows, and where its weights lie.
struct WeightsItem {
  BlockItem rows;
  int64_t first;  ///< index of its first row in the weights
};
void run_weights_item(const FlashTask& task, const AnyView& weights, const WeightsItem& item, void* scratch);
int64_t weights_scratch_bytes(const FlashTask& task);

struct WeightGrads {
  AnyView weights, d_weights, d_q, d_k, d_lse;
};
/// The items of all query heads of one (sequence, key head): gradients of the queries, and of the keys through `d_keys`
/// [keys of the sequence][d padded to 16], overwritten.
void run_weight_grads(const FlashTask& task, const WeightGrads& grads, const WeightsItem* items, int64_t count,
                      int64_t sequence, int64_t key_head, float* d_keys, void* scratch);
int64_t weight_grads_scratch_bytes(const FlashTask& task);

}  // namespace heed::kernels
