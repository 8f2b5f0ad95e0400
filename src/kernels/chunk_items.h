// How the calls of the chunk engines are spread over threads: one item a head of a sequence.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/chunk_task.h"
#include "kernels/cpu/scratch.h"

namespace heed::kernels {

/// Runs run(item, scratch) for the heads of all sequences; sequences of one token run step(item). False if one was.
template <class Params, class Run, class Step>
bool for_each_chunk_item(const Params& p, int64_t scratch_bytes, const Run& run, const Step& step) {
  const int64_t heads = p.out.size[1], count = count_spans(p, p.q) * heads;
  if (count == 0) return true;
  // A few states are walked faster than threads are woken.
  constexpr int64_t kLeastWork = int64_t{1} << 17;
  const bool small = count * p.q.size[3] * p.v.size[3] * std::max<int64_t>(p.q.size[2], 1) < kLeastWork;
  const int threads = small ? 1 : static_cast<int>(std::min<int64_t>(num_threads(), count));
  const bool steps = p.cu_seqlens == nullptr && p.q.size[2] == 1;
  const Block scratch = allocate(steps ? 0 : scratch_bytes * threads);
  std::atomic<bool> valid{true};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) {
    const ChunkItem item{i / heads, i % heads};
    const bool one = span_at(p, p.q, item.sequence).length() == 1;
    char* block = static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num();
    if (!(one ? step(item) : run(item, block))) valid = false;
  }
  return valid;
}

template <class Params>
int64_t longest_span(const Params& p) {
  int64_t longest = 0;
  for (int64_t s = 0; s < count_spans(p, p.q); ++s) longest = std::max(longest, span_at(p, p.q, s).length());
  return longest;
}

/// run(item, scratch) of the heads of all sequences, in their order.
template <class Params, class Run>
std::vector<ItemGradients> for_each_gradient_item(const Params& p, int64_t scratch_bytes, const Run& run) {
  const int64_t heads = p.out.size[1], count = count_spans(p, p.q) * heads;
  std::vector<ItemGradients> results(count);
  if (count == 0) return results;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  const Block scratch = allocate(scratch_bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) {
    results[i] =
        run(ChunkItem{i / heads, i % heads}, static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num());
  }
  return results;
}

}  // namespace heed::kernels
