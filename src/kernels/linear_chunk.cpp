#include "heed/kernels/linear_chunk.h"

#include "heed/kernels/runtime.h"
#include "kernels/chunk_items.h"
#include "kernels/chunk_shared.h"

namespace heed::kernels {

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
  const bool valid = for_each_chunk_item<LinearTask>(p, linear_scratch_bytes, run_linear_item, run_linear_step);
  if (!valid) check_not_positive("linear_chunk", p.log_decay);
}

void linear_chunk_backward(const LinearChunkParams& p, const LinearChunkGrads& g) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::linear_chunk_backward(p, g);
  check(p, g);
  const LinearTask task(p);
  const int64_t longest = longest_span(p);
  LinearChunkGrads all = g;
  SharedGradients shared(task.heads);
  auto& [pairs, reads, writes, carries] = all.d_coefficients;
  for (AnyView* grad : {&all.d_q, &all.d_k, &all.d_v, &pairs, &reads, &writes, &carries}) shared.widen(*grad);
  if (task.decay != DecayKind::constant) shared.widen(all.d_log_decay);
  const std::vector<ItemGradients> results = for_each_gradient_item(
      p, linear_gradient_scratch_bytes(task, longest),
      [&](const ChunkItem& item, void* block) { return run_linear_gradient_item(task, all, item, longest, block); });
  if (!all_valid(results)) check_not_positive("linear_chunk", p.log_decay);
  shared.reduce();
  if (task.decay == DecayKind::constant) write_constants(results, task.heads, g.d_log_decay);
}

}  // namespace heed::kernels
