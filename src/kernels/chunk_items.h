// How the calls of the chunk engines are spread over threads: by heads of sequences and, forward, columns of values.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/chunk_task.h"
#include "kernels/cpu/scratch.h"
#include "kernels/scan_units.h"

namespace heed::kernels {

/// The call for columns [begin, end) of the values, which no others see.
template <class Params>
Params columns_of(Params p, int64_t begin, int64_t end) {
  for (AnyView* view : {&p.v, &p.out, &p.initial_state, &p.final_state}) {
    if (is_absent(*view)) continue;
    if (view->data != nullptr)
      view->data = static_cast<char*>(view->data) + begin * static_cast<int64_t>(size_of(view->dtype));
    view->size[3] = end - begin;
  }
  return p;
}

/// A call of `items` heads by columns of its values: as many parts as leave no thread idle, unless they became narrow.
/// Every column's bits are its own, so the number of threads does not change them.
template <class Params>
std::vector<Params> cut_columns(const Params& p, int64_t items) {
  constexpr int64_t kLeastColumns = 32, kStep = 16;
  const int64_t columns = p.v.size[3];
  const int64_t wanted = std::clamp<int64_t>((num_threads() + items - 1) / std::max<int64_t>(items, 1), 1,
                                             std::max<int64_t>(columns / kLeastColumns, 1));
  const int64_t width = ((columns + wanted - 1) / wanted + kStep - 1) / kStep * kStep;
  std::vector<Params> parts;
  for (int64_t begin = 0; begin < columns; begin += width)
    parts.push_back(columns_of(p, begin, std::min(begin + width, columns)));
  return parts;
}

/// Head `index` % heads of a unit, whose state is the row of its number.
inline ChunkItem chunk_item(const std::vector<ScanUnit>& units, int64_t index, int64_t heads) {
  return {index / heads, index % heads, units[index / heads].span()};
}

/// Runs run(task, item, scratch) for the heads of all units and the parts of a call; units of one token run step(task,
/// item), unless coefficients are given. False if one was.
template <class Task, class Params, class Bytes, class Run, class Step>
bool for_each_chunk_item(const Params& p, const std::vector<ScanUnit>& units, const Bytes& scratch_bytes,
                         const Run& run, const Step& step) {
  const int64_t heads = p.out.size[1], count = static_cast<int64_t>(units.size()) * heads;
  // A few states are walked faster than threads are woken.
  constexpr int64_t kLeastWork = int64_t{1} << 17;
  const bool small = count * p.q.size[3] * p.v.size[3] * std::max<int64_t>(p.q.size[2], 1) < kLeastWork;
  const std::vector<Params> parts = small ? std::vector<Params>{p} : cut_columns(p, count);
  std::vector<Task> tasks;
  for (const Params& part : parts) tasks.emplace_back(part);
  const int64_t total = count * static_cast<int64_t>(tasks.size());
  if (total == 0) return true;
  const int threads = small ? 1 : static_cast<int>(std::min<int64_t>(num_threads(), total));
  const bool stepwise = tasks.front().decay != DecayKind::given;
  const bool steps = stepwise && p.cu_seqlens == nullptr && p.q.size[2] == 1;
  const int64_t bytes = steps ? 0 : scratch_bytes(tasks.front());
  const Block scratch = allocate(bytes * threads);
  std::atomic<bool> valid{true};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < total; ++i) {
    const Task& task = tasks[i / count];
    const ChunkItem item = chunk_item(units, i % count, heads);
    const bool one = stepwise && item.span.length() == 1;
    char* block = static_cast<char*>(scratch.get()) + bytes * omp_get_thread_num();
    if (!(one ? step(task, item) : run(task, item, block))) valid = false;
  }
  return valid;
}

/// run(item, scratch) of the heads of all units, in their order.
template <class Run>
std::vector<ItemGradients> for_each_gradient_item(const std::vector<ScanUnit>& units, int64_t heads,
                                                  int64_t scratch_bytes, const Run& run) {
  const int64_t count = static_cast<int64_t>(units.size()) * heads;
  std::vector<ItemGradients> results(count);
  if (count == 0) return results;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  const Block scratch = allocate(scratch_bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) {
    results[i] =
        run(chunk_item(units, i, heads), static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num());
  }
  return results;
}

}  // namespace heed::kernels
