// Decode: worker by worker through the plan, then a second pass that merges the rows which several workers share. The
// merge runs in slot order, so that results do not depend on who finishes first.
#include "heed/kernels/decode.h"

#include <algorithm>

#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/decode_call.h"

namespace heed::kernels {
namespace {

// A function of the shapes, so that the number of threads does not change a bit of the result. More workers than
// threads, so that a thread which is held up leaves its share to the others; a worker's first step waits for its keys,
// and every worker's state is merged, so that none gets little work.
WorkPlan default_plan(const DecodeParams& p) {
  constexpr int64_t kEnoughWorkers = 16, kFewestUnits = 4, kMostUnits = 16, kMostWorkers = 128;
  const std::vector<int64_t> lengths = row_lengths(p);
  int64_t units = 0;
  for (int64_t length : lengths) units += (length + kStepSlots - 1) / kStepSlots;
  const int64_t of_worker = std::clamp(units / kEnoughWorkers, kFewestUnits, kMostUnits);
  return make_work_plan(lengths, kStepSlots, static_cast<int>(std::clamp<int64_t>(units / of_worker, 1, kMostWorkers)));
}

// Walks the plan once in order: every unit of every row exactly once.
void check_plan(const WorkPlan& plan, const std::vector<int64_t>& lengths) {
  require(plan.tile >= 1, "decode: the plan's tile is {}; at least 1 is accepted", plan.tile);
  const auto units = [&](int64_t row) { return (lengths[row] + plan.tile - 1) / plan.tile; };
  const auto rows = static_cast<int64_t>(lengths.size());
  int64_t row = 0, unit = 0;
  const auto skip_finished = [&] {
    while (row < rows && unit == units(row)) {
      ++row;
      unit = 0;
    }
  };
  for (const auto& segments : plan.workers) {
    for (const WorkPlan::Segment& segment : segments) {
      skip_finished();
      require(
          row < rows && segment.row == row && segment.begin == unit && segment.end > unit && segment.end <= units(row),
          "decode: the plan has units {} to {} of row {} where unit {} of row {} is next; plans are made from the "
          "lengths of the call",
          segment.begin, segment.end, segment.row, unit, row);
      unit = segment.end;
    }
  }
  skip_finished();
  require(row == rows, "decode: the plan ends before unit {} of row {}; plans are made from the lengths of the call",
          unit, row);
}

// Which parts of each row are states of their own: rows that one worker owns whole have none and are finished at once.
struct Parts {
  std::vector<int64_t> first;  ///< [rows + 1] into the states; a row that nobody visits has one empty state
  std::vector<std::vector<int64_t>> of_segment;  ///< per worker and segment: its state, -1 for a whole row

  Parts(const WorkPlan& plan, const std::vector<int64_t>& lengths) {
    std::vector<int64_t> count(lengths.size(), 0);
    for (size_t row = 0; row < lengths.size(); ++row) count[row] = lengths[row] == 0 ? 1 : 0;
    int64_t states = 0;
    size_t next_row = 0;
    const auto open_rows = [&](size_t upto) {
      for (; next_row <= upto; ++next_row) {
        first.push_back(states);
        states += count[next_row];
      }
    };
    for (const auto& segments : plan.workers) {
      of_segment.emplace_back();
      for (const WorkPlan::Segment& segment : segments) {
        open_rows(segment.row);
        const int64_t units = (lengths[segment.row] + plan.tile - 1) / plan.tile;
        const bool whole = segment.end - segment.begin == units;
        of_segment.back().push_back(whole ? -1 : states++);
      }
    }
    if (!lengths.empty()) open_rows(lengths.size() - 1);
    first.push_back(states);
  }
};

void run(const DecodeParams& p, const WorkPlan& plan) {
  const DecodeCall call(p);
  check_plan(plan, call.lengths);
  const Parts parts(plan, call.lengths);
  const auto workers = static_cast<int64_t>(plan.workers.size()), rows = static_cast<int64_t>(call.lengths.size());
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), std::max<int64_t>(workers, 1)));

  Arena counter;
  RowState(counter, call.query_rows, call.dv);
  const int64_t state_bytes = counter.used(), scratch_bytes = decode_scratch_bytes(call), states = parts.first.back();
  const Block block = allocate((states + threads) * state_bytes + threads * scratch_bytes);
  const auto at = [&](int64_t offset) { return static_cast<char*>(block.get()) + offset; };
  std::vector<RowState> state;
  for (int64_t s = 0; s < states + threads; ++s) {
    Arena arena(at(s * state_bytes));
    state.emplace_back(arena, call.query_rows, call.dv);
  }
  const auto scratch = [&](int thread) { return at((states + threads) * state_bytes + thread * scratch_bytes); };

  int64_t visited = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(+ : visited)
  for (int64_t w = 0; w < workers; ++w) {
    const int thread = omp_get_thread_num();
    for (size_t i = 0; i < plan.workers[w].size(); ++i) {
      const WorkPlan::Segment& segment = plan.workers[w][i];
      const int64_t own = parts.of_segment[w][i], end = std::min(segment.end * plan.tile, call.lengths[segment.row]);
      const RowState& to = state[own < 0 ? states + thread : own];
      visited += run_slots(call, segment.row, segment.begin * plan.tile, end, to, scratch(thread));
      if (own < 0) finish_row(call, segment.row, &to, 1, scratch(thread));
    }
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = parts.first[row], count = parts.first[row + 1] - first;
    if (count == 0) continue;
    if (call.lengths[row] == 0) run_slots(call, row, 0, 0, state[first], scratch(omp_get_thread_num()));
    finish_row(call, row, state.data() + first, count, scratch(omp_get_thread_num()));
  }
  if (p.slots_read != nullptr) *p.slots_read = visited;
}

bool has_nothing_to_do(const DecodeParams& p) { return p.q.size[0] == 0 || p.q.size[1] == 0 || p.q.size[2] == 0; }

}  // namespace

void decode(const DecodeParams& p) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::decode(p);
  check(p);
  if (has_nothing_to_do(p)) return;
  run(p, default_plan(p));
}

void decode(const DecodeParams& p, const WorkPlan& plan) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::decode(p);
  check(p);
  if (has_nothing_to_do(p)) return;
  run(p, plan);
}

}  // namespace heed::kernels
