#include "heed/kernels/slot_scores.h"

#include <algorithm>

#include <omp.h>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/slot_scores_call.h"
#include "kernels/reference/element.h"

namespace heed::kernels {

void slot_scores(const SlotScoresParams& p) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::slot_scores(p);
  check(p);
  if (is_empty(p.q) || p.scores.size[3] == 0) return;
  const SlotScoresCall call(p);
  const int64_t items = call.items(), bytes = scores_scratch_bytes(call);
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), items));
  const Block scratch = allocate(bytes * threads);
  for (const bool second_pass : {false, true}) {
    if (second_pass && !p.softmax) break;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      run_scores_item(call, item, second_pass, static_cast<char*>(scratch.get()) + bytes * omp_get_thread_num());
    }
  }
}

}  // namespace heed::kernels
