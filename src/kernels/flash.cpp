#include "heed/kernels/flash.h"

#include <cmath>
#include <limits>

#include <omp.h>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

bool takes_reference(const FlashParams& p) { return use_reference() || p.q.dtype == DType::f64; }

/// Rows that belong to no sequence, or lie beyond its length.
void clear_outside_rows(const FlashParams& p) {
  const auto clear = [&](int64_t b, int64_t begin, int64_t end) {
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t d = 0; d < p.out.size[3]; ++d) store_element(p.out, b, h, i, d, 0);
        if (p.lse) store_element(p.lse, b, h, i, 0, -std::numeric_limits<double>::infinity());
      }
    }
  };
  if (p.cu_q != nullptr) {
    const int64_t last = p.num_sequences;
    clear(0, 0, last > 0 ? p.cu_q[0] : p.q.size[2]);
    if (last > 0) clear(0, p.cu_q[last], p.q.size[2]);
  } else if (p.q_lengths != nullptr) {
    for (int64_t b = 0; b < p.q.size[0]; ++b) clear(b, p.q_lengths[b], p.q.size[2]);
  }
}

}  // namespace

void run_forward(const FlashTask& task) {
  const FlashParams& p = task.p;
  clear_outside_rows(p);
  const std::vector<BlockItem> items = cut_into_blocks(task, task.forward_rows);
  const int64_t count = static_cast<int64_t>(items.size());
  if (count == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  const int64_t bytes = forward_scratch_bytes(task);
  const Block scratch = allocate(bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < count; ++t) {
    run_forward_item(task, items[t], static_cast<char*>(scratch.get()) + bytes * omp_get_thread_num());
  }
}

void flash_forward(const FlashParams& p) {
  if (takes_reference(p)) return reference::flash_forward(p);
  check(p);
  run_forward(FlashTask(p));
}

void flash_forward(const FlashParams& p, const Variant& variant) {
  check(p, variant);
  run_forward(FlashTask(p, variant));
}

int64_t flash_forward_bytes(const FlashParams& p) {
  check(p);
  if (takes_reference(p)) return 8 * (p.q.size[2] * p.q.size[3] + p.k.size[2] * (p.k.size[3] + p.v.size[3] + 6));
  const FlashTask task(p);
  const auto items = cut_into_blocks(task, task.forward_rows);
  const int64_t threads = std::min<int64_t>(num_threads(), items.size());
  return threads * forward_scratch_bytes(task) + static_cast<int64_t>(items.size() * sizeof(BlockItem));
}

}  // namespace heed::kernels
