// Entries of decode behind the dispatch: a range of slots of a row, and a row's outputs once all ranges are in.
#include <cmath>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/decode_row.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/decode_states-inl.h"
#include "kernels/cpu/decode_walk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

int64_t RunSlots(const DecodeCall& call, int64_t row, int64_t begin, int64_t end, const RowState& state, void* block) {
  Arena arena(block);
  const RowScratch scratch(arena, call);
  return SlotWalk<true>(call, row, state, scratch).run(begin, end);
}

void FinishRow(const DecodeCall& call, int64_t row, const RowState* parts, int64_t count, void* block) {
  Arena arena(block);
  const RowScratch scratch(arena, call);
  const DecodeParams& p = call.p;
  const int64_t b = row / call.kv_heads, h = row % call.kv_heads;
  const RowState& state = parts[0];
  for (int64_t part = 1; part < count; ++part) merge_states(call, state, parts[part]);
  if (p.synthetic_k) {
    SlotWalk<false>(call, row, scratch.synthetic, scratch).run(0, p.synthetic_k.size[2]);
    merge_states(call, state, scratch.synthetic);
  }
  if (p.sink_logit) join_sinks(call, h, state);
  for (int64_t r = 0; r < call.query_rows; ++r) {
    const int64_t head = h * call.group + r / call.rows, i = r % call.rows;
    const float sum = state.sum[r];
    with_float_type(p.out, [&](auto* data) {
      write_row(state.o + r * state.stride, sum == 0 ? 0.0f : 1 / sum, call.dv,
                p.out.as<std::remove_pointer_t<decltype(data)>>().row(b, head, i));
    });
    if (p.lse) {
      *p.lse.as<float>().row(b, head, i) =
          sum == 0 ? -INFINITY : static_cast<float>(state.maximum[r] + std::log(static_cast<double>(sum)));
    }
    if (p.arg_max) p.arg_max.at(b, head, i) = state.best_slot[r];
  }
  if (p.column_sum) write_column_sums(call, row, state, scratch.position);
}

int64_t ScratchBytes(const DecodeCall& call) {
  Arena arena;
  const RowScratch scratch(arena, call);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunSlots);
HWY_EXPORT(FinishRow);
HWY_EXPORT(ScratchBytes);

int64_t run_slots(const DecodeCall& call, int64_t row, int64_t begin, int64_t end, const RowState& state,
                  void* scratch) {
  return HEED_DISPATCH(RunSlots)(call, row, begin, end, state, scratch);
}
void finish_row(const DecodeCall& call, int64_t row, const RowState* parts, int64_t count, void* scratch) {
  HEED_DISPATCH(FinishRow)(call, row, parts, count, scratch);
}
int64_t decode_scratch_bytes(const DecodeCall& call) { return HEED_DISPATCH(ScratchBytes)(call); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
