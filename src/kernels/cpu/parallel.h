// Items of work over threads, each thread with scratch of its own.
#pragma once

#include <omp.h>

#include <algorithm>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/scratch.h"

namespace heed::kernels {

/// Calls run(item, scratch) for item < count on all threads, or on this one alone when the `work` of all items, in
/// multiply-adds, is less than waking the others costs.
template <class Run>
void for_each_item(int64_t count, int64_t scratch_bytes, double work, const Run& run) {
  constexpr double kWorthWaking = 2e5;
  if (count <= 0) return;
  const int threads = work < kWorthWaking ? 1 : static_cast<int>(std::min<int64_t>(num_threads(), count));
  const Block scratch = allocate(scratch_bytes * threads);
  if (threads == 1) {
    for (int64_t item = 0; item < count; ++item) run(item, scratch.get());
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t item = 0; item < count; ++item)
    run(item, static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num());
}

}  // namespace heed::kernels
