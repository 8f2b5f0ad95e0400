// What the entries about pages share: their checks' view of the call, and which pages and blocks there are.
#pragma once

#include <algorithm>

#include "heed/kernels/page_scores.h"

namespace heed::kernels {

/// A decode call that reads the same keys; nothing else of it is used.
DecodeParams decode_problem(const KeySummaryParams& params);

/// Scores with pages for slots: queries of twice the head size, see split_queries. `page_lengths` is filled.
SlotScoresParams slot_problem(const PageBoundsParams& params, const AnyView& split_queries,
                              std::vector<int64_t>& page_lengths);
/// Scores with key blocks for slots. `limits` is filled.
SlotScoresParams slot_problem(const BlockScoresParams& params, std::vector<int64_t>& limits);

inline int64_t batch_of(const KeySummaryParams& p) { return (p.extremes ? p.extremes : p.means).size[0]; }

inline int64_t blocks_of(int64_t count, int64_t block) { return count / block + (count % block != 0 ? 1 : 0); }

/// Slots that earlier calls have summarised, of row (b, h).
inline int64_t summarized_slots(const KeySummaryParams& p, int64_t b, int64_t h) {
  return p.summarized == nullptr ? 0 : p.summarized[b * p.lengths_stride_b + h * p.lengths_stride_h];
}

/// Key blocks that a query block sees.
inline int64_t visible_blocks(const BlockScoresParams& p, int64_t query_block) {
  const int64_t blocks = blocks_of(p.keys, p.key_block);
  if (!p.causal) return blocks;
  const int64_t last = std::min((query_block + 1) * p.query_block, p.queries) - 1 + p.keys - p.queries;
  return last < 0 ? 0 : std::min(last / p.key_block + 1, blocks);
}

}  // namespace heed::kernels
