#include "heed/kernels/delta_chunk.h"

#include "heed/kernels/runtime.h"
#include "kernels/chunk_items.h"
#include "kernels/chunk_shared.h"

namespace heed::kernels {

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

void delta_chunk_backward(const DeltaChunkParams& p, const DeltaChunkGrads& g) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::delta_chunk_backward(p, g);
  check(p, g);
  const DeltaTask task(p);
  const int64_t longest = longest_span(p, p.q);
  DeltaChunkGrads all = g;
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
