// The call of slot_scores as decode's machinery sees it, and what is decided once for all of its items.
#pragma once

#include "heed/kernels/slot_scores.h"

namespace heed::kernels {

/// The decode call with the same queries, keys and lengths; values and output are stand-ins that nobody reads.
DecodeParams decode_problem(const SlotScoresParams& params);

/// Candidates of query row n among `length` slots: [begin, end), empty as begin = end.
struct SlotRange {
  int64_t begin, end;
};
inline SlotRange candidates(const SlotScoresParams& p, int64_t length, int64_t n) {
  int64_t end = length - p.exclude_last;
  if (p.row_limits != nullptr && p.row_limits[n] < end) end = p.row_limits[n];
  return {p.begin < end ? p.begin : 0, p.begin < end ? end : 0};
}

/// Query heads whose scores become one.
inline int64_t heads_per_score(const SlotScoresParams& p) {
  return p.heads == HeadReduction::none ? 1 : p.q.size[1] / p.scores.size[1];
}

}  // namespace heed::kernels
