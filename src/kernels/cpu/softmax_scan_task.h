// A softmax scan cut into pieces that threads take: heads of sequences or of chunks of them.
#pragma once

#include <vector>

#include "heed/kernels/softmax_scan.h"
#include "kernels/scan_units.h"

namespace heed::kernels {

struct SoftmaxScanTask {
  explicit SoftmaxScanTask(const SoftmaxScanParams& params)
      : p(params),
        heads(std::max(p.scores.size[1], p.v.size[1])),
        width(p.v.size[3]),
        shared(heads / std::min(p.scores.size[1], p.v.size[1])),
        units(units_of(p, p.v, unit_tokens(p, p.v, p.chunk, heads, 2, 4096))),
        chunked(static_cast<int64_t>(units.size()) > count_spans(p, p.v)) {}

  int64_t score_head(int64_t h) const { return h * p.scores.size[1] / heads; }
  int64_t value_head(int64_t h) const { return h * p.v.size[1] / heads; }
  int64_t state_floats() const { return width + 2; }

  const SoftmaxScanParams& p;
  int64_t heads, width;
  int64_t shared;  ///< consecutive heads that share scores or values: one item of the backward
  std::vector<ScanUnit> units;
  bool chunked;  ///< some sequence is more than one unit
};

/// One head of a unit. `from` [width + 2] is what was seen before, null: where the call says. With `outputs` out and
/// lse are written, and the final state by the last unit; without, `to` is what the unit alone has seen.
void run_softmax_unit(const SoftmaxScanTask& task, const ScanUnit& unit, int64_t head, const float* from, float* to,
                      bool outputs, void* scratch);
int64_t softmax_scratch_bytes(const SoftmaxScanTask& task);

/// What the gradient of the largest score adds, and where: `token` < 0 for the initial state.
struct LargestScore {
  int64_t token = -1;
  float gradient = 0;
};

/// The gradients of the heads [first, first + shared) of a unit. `behind` [shared][width + 1] is what flows back from
/// behind the unit, relative to the lse of its last token; it becomes that of its first token. Without `outputs`
/// nothing else is computed. `largest` [shared], or null.
void run_softmax_unit_backward(const SoftmaxScanTask& task, const SoftmaxScanGrads& grads, const ScanUnit& unit,
                               int64_t first, float* behind, const LargestScore* largest, bool outputs, void* scratch);
int64_t softmax_backward_scratch_bytes(const SoftmaxScanTask& task);

}  // namespace heed::kernels
