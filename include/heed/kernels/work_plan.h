// How the key tiles of all (sequence, KV head) rows are cut over workers: stream-K, fixed splits, or whole rows.
#pragma once

#include <cstdint>
#include <vector>

namespace heed::kernels {

/// A unit is one tile of slots of one row. Units are ordered by row, then by slot, and the segments of all workers,
/// read in order, walk that order once from end to end. The worker that owns a row's first unit is the row's host. Lean
/// Attention, arXiv 2405.10480. Results of `decode` do not depend on the plan beyond rounding.
struct WorkPlan {
  enum class Split : uint8_t {
    stream_k,  ///< every worker gets floor or ceil of units / workers, across row borders
    fixed,     ///< every row is cut into the same number of pieces, at least one piece a worker (flash-decoding)
    none,      ///< rows stay whole
  };
  /// Units [begin, end) of one row.
  struct Segment {
    int64_t row, begin, end;
  };
  std::vector<std::vector<Segment>> workers;  ///< segments of each worker, in order
  int64_t tile = 0;                           ///< slots per unit
  int64_t units = 0;                          ///< of all rows
  int64_t rows = 0;

  /// units / (workers * most units of one worker); 1 when there is nothing to do.
  double efficiency() const;
};

/// `lengths` [rows]: slots per row, 0 allowed. Throws heed::Error for a negative length, a tile or a worker count
/// below 1.
WorkPlan make_work_plan(const std::vector<int64_t>& lengths, int64_t tile, int workers,
                        WorkPlan::Split split = WorkPlan::Split::stream_k);

}  // namespace heed::kernels
