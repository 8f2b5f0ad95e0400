#include "heed/kernels/delta_chunk.h"

#include "heed/kernels/runtime.h"
#include "kernels/chunk_items.h"
#include "kernels/chunk_shared.h"

namespace heed::kernels {
namespace {

/// Columns of values in `parts`, as heads.
void split_columns(AnyView& view, int64_t parts) {
  if (is_absent(view)) return;
  view.size[1] = parts, view.size[3] /= parts;
  view.stride[1] = view.size[3];
}

/// The backward takes a head of a sequence as one item. The columns of values of a lone, long one become two heads
/// that share its queries, keys and strengths; with fewer columns what they share would cost more than the second
/// thread brings. A function of the shapes, as sums depend on it.
void split_lone_head(DeltaChunkParams& p, DeltaChunkGrads& g) {
  constexpr int64_t kParts = 2, kLeastColumns = 128, kLeastTokens = 2048;
  if (count_spans(p, p.q) * p.out.size[1] > 1) return;
  if (p.v.size[3] < kLeastColumns || p.v.size[3] % kParts != 0 || p.q.size[2] < kLeastTokens) return;
  for (AnyView* view : {&p.v, &p.out, &p.initial_state, &g.d_out, &g.d_final_state, &g.d_v, &g.d_initial_state})
    split_columns(*view, kParts);
}

}  // namespace

DeltaTask::DeltaTask(const DeltaChunkParams& params)
    : p(params),
      decay(decay_kind(params.log_decay, params.q.size[3])),
      heads(params.out.size[1]),
      d(params.q.size[3]),
      dv(params.v.size[3]),
      chunk(params.chunk) {}

void delta_chunk(const DeltaChunkParams& p) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::delta_chunk(p);
  check(p);
  const bool valid = for_each_chunk_item<DeltaTask>(p, units_of(p, p.q, longest_span(p, p.q)), delta_scratch_bytes,
                                                    run_delta_item, run_delta_step);
  if (!valid) check_not_positive("delta_chunk", p.log_decay);
}

void delta_chunk_backward(const DeltaChunkParams& call, const DeltaChunkGrads& g) {
  if (use_reference() || call.q.dtype == DType::f64) return reference::delta_chunk_backward(call, g);
  check(call, g);
  DeltaChunkParams p = call;
  DeltaChunkGrads all = g;
  split_lone_head(p, all);
  const DeltaTask task(p);
  const int64_t longest = longest_span(p, p.q);
  SharedGradients shared(task.heads);
  for (AnyView* grad : {&all.d_q, &all.d_k, &all.d_v, &all.d_beta}) shared.widen(*grad);
  if (task.decay != DecayKind::constant) shared.widen(all.d_log_decay);
  const std::vector<ItemGradients> results = for_each_gradient_item(
      units_of(p, p.q, longest), task.heads, delta_gradient_scratch_bytes(task, longest),
      [&](const ChunkItem& item, void* block) { return run_delta_gradient_item(task, all, item, longest, block); });
  if (!all_valid(results)) check_not_positive("delta_chunk", p.log_decay);
  shared.reduce();
  if (task.decay == DecayKind::constant) write_constants(results, task.heads, g.d_log_decay);
}

}  // namespace heed::kernels
