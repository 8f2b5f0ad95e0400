#include "heed/kernels/linear_chunk.h"

#include "heed/kernels/runtime.h"
#include "kernels/chunk_items.h"
#include "kernels/chunk_shared.h"
#include "kernels/linear_segments.h"

namespace heed::kernels {
namespace {

/// Sequences are cut where there is one head of one.
std::vector<ScanUnit> segments_of(const LinearTask& task) {
  constexpr int64_t kLeast = 2048;
  const LinearChunkParams& p = task.p;
  const int64_t tokens = unit_tokens(p, p.q, p.segment, task.heads, 2, kLeast);
  return units_of(p, p.q, (tokens + task.group - 1) / task.group * task.group);
}

bool are_cut(const std::vector<ScanUnit>& units) {
  return std::any_of(units.begin(), units.end(), [](const ScanUnit& unit) { return !unit.last; });
}

bool run(const LinearChunkParams& p, const std::vector<ScanUnit>& units) {
  return for_each_chunk_item<LinearTask>(p, units, linear_scratch_bytes, run_linear_item, run_linear_step);
}

bool run_segments(const LinearTask& task, const std::vector<ScanUnit>& units) {
  bool valid = true;
  SegmentStates starts = LinearSegments(task, units).starts(valid), ends(task, units.size());
  if (!valid) return false;
  LinearChunkParams p = task.p;
  p.initial_state = starts.view();
  p.final_state = ends.view();
  run(p, units);
  write_bounds(units, &ScanUnit::last, ends.view(), task.p.final_state);
  return true;
}

std::vector<ItemGradients> run_gradients(const LinearTask& task, const LinearChunkGrads& grads,
                                         const std::vector<ScanUnit>& units) {
  int64_t longest = 0;
  for (const ScanUnit& unit : units) longest = std::max(longest, unit.span().length());
  return for_each_gradient_item(
      units, task.heads, linear_gradient_scratch_bytes(task, longest),
      [&](const ChunkItem& item, void* block) { return run_linear_gradient_item(task, grads, item, longest, block); });
}

std::vector<ItemGradients> run_segment_gradients(const LinearTask& task, LinearChunkGrads grads,
                                                 const std::vector<ScanUnit>& units) {
  LinearSegments segments(task, units);
  bool valid = true;
  SegmentStates starts = segments.starts(valid);
  if (!valid) return {ItemGradients{.valid = false}};
  SegmentStates ends = segments.end_gradients(grads), first(task, units.size());
  LinearChunkParams p = task.p;
  p.initial_state = starts.view();
  const AnyView d_initial_state = grads.d_initial_state;
  grads.d_final_state = ends.view();
  grads.d_initial_state = first.view();
  auto results = run_gradients(LinearTask(p), grads, units);
  write_bounds(units, &ScanUnit::first, first.view(), d_initial_state);
  return results;
}

}  // namespace

LinearTask::LinearTask(const LinearChunkParams& params)
    : p(params),
      decay(has_coefficients(params) ? DecayKind::given : decay_kind(params.log_decay, params.q.size[3])),
      heads(params.out.size[1]),
      d(params.q.size[3]),
      dv(params.v.size[3]),
      chunk(decay == DecayKind::channel ? std::min(params.chunk, kMostChannelChunk) : params.chunk),
      group(decay == DecayKind::channel ? std::max<int64_t>(64 / chunk, 1) * chunk : chunk) {}

void linear_chunk(const LinearChunkParams& p) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::linear_chunk(p);
  check(p);
  const LinearTask task(p);
  const std::vector<ScanUnit> units = segments_of(task);
  if (!(are_cut(units) ? run_segments(task, units) : run(p, units))) check_not_positive("linear_chunk", p.log_decay);
}

void linear_chunk_backward(const LinearChunkParams& p, const LinearChunkGrads& g) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::linear_chunk_backward(p, g);
  check(p, g);
  const LinearTask task(p);
  LinearChunkGrads all = g;
  SharedGradients shared(task.heads);
  auto& [pairs, reads, writes, carries] = all.d_coefficients;
  for (AnyView* grad : {&all.d_q, &all.d_k, &all.d_v, &pairs, &reads, &writes, &carries}) shared.widen(*grad);
  if (task.decay != DecayKind::constant) shared.widen(all.d_log_decay);
  const std::vector<ScanUnit> units = segments_of(task);
  const auto results = are_cut(units) ? run_segment_gradients(task, all, units) : run_gradients(task, all, units);
  if (!all_valid(results)) check_not_positive("linear_chunk", p.log_decay);
  shared.reduce();
  if (task.decay == DecayKind::constant) write_constants(results, task.heads, g.d_log_decay);
}

}  // namespace heed::kernels
