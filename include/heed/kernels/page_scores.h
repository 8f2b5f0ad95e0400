// Scores of whole pages or blocks of keys, from summaries that are a fraction of the keys' size.
#pragma once

#include "heed/kernels/slot_scores.h"

namespace heed::kernels {

/// Channel-wise summaries of the keys of each page: slots [page * page_slots, (page + 1) * page_slots) of a (sequence,
/// KV head), of the last page those that exist. A NaN in a channel makes that channel's entries NaN.
struct KeySummaryParams {
  CacheView k;  ///< as in decode, or queries or keys [B, H, N, D] as they are; the page size of the cache is free
  int64_t num_kv_heads = 0;
  /// Valid slots, and how many of them earlier calls have seen: lengths[b * lengths_stride_b + h * lengths_stride_h],
  /// `summarized` likewise. Null: the capacity of contiguous storage; none. Pages below the slots seen are left alone,
  /// a page begun is continued. Slots that change or go need a call that starts at or before them.
  const int64_t* lengths = nullptr;
  const int64_t* summarized = nullptr;
  int64_t lengths_stride_b = 1, lengths_stride_h = 0;
  int64_t page_slots = 16;
  /// [B, Hkv, P, 2 * D]: maxima of all channels, then minima; dtype of k, which holds them exactly (float32 for int8).
  /// P at least the largest number of pages. Pages without slots are not written. Optional.
  AnyView extremes;
  AnyView means;  ///< float [B, Hkv, P, D], by the same rules, optional
};

/// bound = scale * sum_c max(q_c * maximum_c, q_c * minimum_c): no key of the page scores higher. Pages that do not
/// exist get -inf. Quest, arXiv 2406.10774. Keys that are not finite make bounds NaN.
struct PageBoundsParams {
  AnyView q;                         ///< [B, Hq, N, D] f32, f16 or bf16
  AnyView extremes;                  ///< [B, Hkv, P, 2 * D], as written by summarize_keys
  const int64_t* lengths = nullptr;  ///< slots, strides as above; null: all P pages are full
  int64_t lengths_stride_b = 1, lengths_stride_h = 0;
  int64_t page_slots = 16;
  double scale = 0;  ///< 0: 1 / sqrt(D)
  HeadReduction heads = HeadReduction::none;
  View<float> bounds;  ///< [B, H, N, S >= pages], sizes as in SlotScoresParams
};

/// Scores of mean-pooled queries against mean-pooled keys, with `softmax` over the key blocks that a query block sees;
/// -inf or weight 0 for the others.
struct BlockScoresParams {
  AnyView q_means, k_means;       ///< [B, Hq, query blocks, D] and [B, Hkv, key blocks, D], f32, f16 or bf16
  int64_t queries = 0, keys = 0;  ///< N and M, from which blocks were made
  int64_t query_block = 64, key_block = 64;
  bool causal = true;  ///< a query block sees the key blocks up to that of its last row, bottom-right aligned
  double scale = 0;    ///< 0: 1 / sqrt(D)
  bool softmax = false;
  HeadReduction heads = HeadReduction::none;
  View<float> scores;  ///< [B, H, query blocks, key blocks], sizes as in SlotScoresParams
};

void check(const KeySummaryParams& params);
void check(const PageBoundsParams& params);
void check(const BlockScoresParams& params);

void summarize_keys(const KeySummaryParams& params);
/// Extra memory: twice the queries in float.
void page_bounds(const PageBoundsParams& params);
void block_scores(const BlockScoresParams& params);

namespace reference {
void summarize_keys(const KeySummaryParams& params);  ///< every page from all of its slots
void page_bounds(const PageBoundsParams& params);
void block_scores(const BlockScoresParams& params);
}  // namespace reference

}  // namespace heed::kernels
