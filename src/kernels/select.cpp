// Rows of scores to lists: the loops over rows and threads.
#include "heed/kernels/select.h"

#include <algorithm>

#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/radix_select.h"
#include "kernels/cpu/scratch.h"
#include "kernels/select_problem.h"

namespace heed::kernels {
namespace {

/// Runs run(index, scratch) for every index below count on all threads, each with scratch of its own.
template <class Run>
void for_each_row(int64_t count, int64_t scratch_bytes, const Run& run) {
  if (count == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  const Block scratch = allocate(scratch_bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t index = 0; index < count; ++index)
    run(index, static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num());
}

/// Calls take(row, forced, scratch) for every row; it returns how many entries beside the forced ones to take, the
/// largest of those between.
template <class Count>
void select_rows(const ScoreRows& scores, int64_t first, int64_t last, const IndexLists& lists, const Count& count) {
  const int64_t bytes = RadixScratch::bytes(scores.values.size[3]);
  for_each_row(count_rows(scores), bytes, [&](int64_t index, void* memory) {
    const RadixScratch scratch(memory, scores.values.size[3]);
    const ScoreRow row = score_row(scores, index);
    const Forced forced(first, last, row.length);
    const int64_t free = std::clamp<int64_t>(count(row, forced, scratch), 0, forced.last - forced.first);
    write_list(lists, row, scratch.list, list_largest(row.values, row.length, forced, free, scratch));
  });
}

}  // namespace

void top_k(const TopKParams& p) {
  if (use_reference()) return reference::top_k(p);
  check(p);
  select_rows(p.scores, p.first, p.last, p.lists, [&](const ScoreRow& row, const Forced& forced, const RadixScratch&) {
    return p.k - forced.count(row.length);
  });
}

void top_p(const TopPParams& p) {
  if (use_reference()) return reference::top_p(p);
  check(p);
  select_rows(p.scores, p.first, p.last, p.lists,
              [&](const ScoreRow& row, const Forced& forced, const RadixScratch& scratch) {
                const int64_t taken = forced.count(row.length), all = row.length - taken;
                const int64_t wanted = p.mass >= 1 ? all : count_mass(row.values, row.length, forced, p.mass, scratch);
                return std::clamp(wanted, p.least - taken, std::max(p.most - taken, p.least - taken));
              });
}

void pool(const PoolParams& p) {
  if (use_reference()) return reference::pool(p);
  check(p);
  const bool takes_max = p.kind == PoolParams::Kind::max;
  for_each_row(count_rows(p.in), 0, [&](int64_t index, void*) {
    const ScoreRow row = score_row(p.in, index);
    float* to = p.out.row(row.b, row.h, row.r);
    const int64_t half = std::min(p.width / 2, row.length), length = row.length;
    std::fill(to, to + length, takes_max ? -INFINITY : 0.0f);
    // One pass a neighbour, so that the inner loop is a plain one.
    for (int64_t shift = -half; shift <= half; ++shift) {
      const int64_t begin = std::max<int64_t>(0, -shift), end = std::min(length, length - shift);
      const float* from = row.values + shift;
      if (takes_max) {
        for (int64_t s = begin; s < end; ++s) to[s] = from[s] > to[s] || from[s] != from[s] ? from[s] : to[s];
      } else {
        for (int64_t s = begin; s < end; ++s) to[s] += from[s];
      }
    }
    for (int64_t s = 0; !takes_max && s < length; ++s) {
      const int64_t inside = std::min(s + half + 1, length) - std::max<int64_t>(0, s - half);
      to[s] /= static_cast<float>(p.edges == PoolParams::Edges::corrected ? inside : p.width);
    }
    std::fill(to + length, to + p.out.size[3], -INFINITY);
  });
}

void reduce_heads(const View<const float>& scores, HeadReduction reduction, const View<float>& reduced) {
  check_reduction(scores, reduction, reduced);
  const auto& size = reduced.size;
  const int64_t group = size[1] == 0 ? 0 : scores.size[1] / size[1];
  for_each_row(size[0] * size[1] * size[2], 0, [&](int64_t index, void*) {
    const int64_t b = index / (size[1] * size[2]), h = index / size[2] % size[1], r = index % size[2];
    float* to = reduced.row(b, h, r);
    for (int64_t g = 0; g < group; ++g) {
      const float* from = scores.row(b, h * group + g, r);
      if (g == 0) {
        std::copy_n(from, size[3], to);
      } else if (reduction == HeadReduction::max) {
        for (int64_t s = 0; s < size[3]; ++s) to[s] = from[s] > to[s] || from[s] != from[s] ? from[s] : to[s];
      } else {
        for (int64_t s = 0; s < size[3]; ++s) to[s] += from[s];
      }
    }
    const auto share = static_cast<float>(group);
    for (int64_t s = 0; reduction == HeadReduction::mean && s < size[3]; ++s) to[s] /= share;
  });
}

void unite_heads(const View<const int32_t>& lists, const IndexLists& united) {
  check_union(lists, united);
  const auto& size = united.indices.size;
  const int64_t group = size[1] == 0 ? 0 : lists.size[1] / size[1];
  std::vector<int64_t> counts(size[0] * size[1] * size[2]);
  const auto place = [&](int64_t index, const auto& visit) {
    visit(index / (size[1] * size[2]), index / size[2] % size[1], index % size[2]);
  };
#pragma omp parallel for num_threads(num_threads()) schedule(dynamic, 1)
  for (int64_t index = 0; index < static_cast<int64_t>(counts.size()); ++index) {
    place(index, [&](int64_t b, int64_t h, int64_t r) {
      std::vector<int32_t> all;
      for (int64_t g = 0; g < group; ++g) {
        const int32_t* from = lists.row(b, h * group + g, r);
        std::copy_if(from, from + lists.size[3], std::back_inserter(all), [](int32_t i) { return i >= 0; });
      }
      std::sort(all.begin(), all.end());
      all.erase(std::unique(all.begin(), all.end()), all.end());
      counts[index] = static_cast<int64_t>(all.size());
      if (counts[index] <= size[3]) write_list(united, {b, h, r, nullptr, 0}, all.data(), counts[index]);
    });
  }
  for (size_t index = 0; index < counts.size(); ++index) {
    place(static_cast<int64_t>(index), [&](int64_t b, int64_t h, int64_t r) {
      require(counts[index] <= size[3],
              "unite_heads: the union of row [{}, {}, {}] has {} entries; lists of {} hold it", b, h, r, counts[index],
              size[3]);
    });
  }
}

}  // namespace heed::kernels
