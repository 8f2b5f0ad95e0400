// Summaries of pages, and the two scores that stand on them: both are slot_scores with pages for slots.
#include "heed/kernels/page_scores.h"

#include <algorithm>

#include <omp.h>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/key_summary_call.h"
#include "kernels/page_scores_problem.h"
#include "kernels/reference/element.h"

namespace heed::kernels {

void summarize_keys(const KeySummaryParams& p) {
  if (use_reference() || p.k.data.dtype == DType::f64) return reference::summarize_keys(p);
  check(p);
  const DecodeParams problem = decode_problem(p);
  const KeySummaryCall call(p, row_lengths(problem));
  const auto items = static_cast<int64_t>(call.items.size());
  if (items == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), items));
  const int64_t bytes = summary_scratch_bytes(call);
  const Block scratch = allocate(bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t item = 0; item < items; ++item)
    run_summary_item(call, call.items[item], static_cast<char*>(scratch.get()) + bytes * omp_get_thread_num());
}

void page_bounds(const PageBoundsParams& p) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::page_bounds(p);
  check(p);
  if (is_empty(p.q)) return;
  // max(q u, q l) = max(q, 0) u + min(q, 0) l for u >= l: one product of rows twice as long.
  AnyView split{nullptr, DType::f32, p.q.size, {}};
  split.size[3] *= 2;
  split.stride = dense_strides(split.size);
  const Block block = allocate(split.size[0] * split.stride[0] * static_cast<int64_t>(sizeof(float)));
  split.data = block.get();
  split_queries(p.q, split.as<float>());
  std::vector<int64_t> page_lengths;
  slot_scores(slot_problem(p, split, page_lengths));
}

void block_scores(const BlockScoresParams& p) {
  if (use_reference() || p.q_means.dtype == DType::f64) return reference::block_scores(p);
  check(p);
  std::vector<int64_t> limits;
  slot_scores(slot_problem(p, limits));
}

}  // namespace heed::kernels
