// Softmax states of the rows of decode: cleared, joined, and read.
#if defined(HEED_KERNELS_CPU_DECODE_STATES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_STATES_INL_H_
#undef HEED_KERNELS_CPU_DECODE_STATES_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_STATES_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "kernels/cpu/decode_call.h"
#include "kernels/cpu/decode_logits-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

inline void clear(const DecodeCall& call, const RowState& state) {
  std::fill_n(state.o, (call.query_rows + RowState::kRowPadding) * state.stride, 0.0f);
  std::fill_n(state.maximum, call.query_rows + RowState::kRowPadding, -INFINITY);
  std::fill_n(state.sum, call.query_rows + RowState::kRowPadding, 0.0f);
  std::fill_n(state.best, call.query_rows, -INFINITY);
  std::fill_n(state.best_slot, call.query_rows, int64_t{-1});
}

/// a = the softmax state over both sets of slots, b's after a's.
inline void merge_states(const DecodeCall& call, const RowState& a, const RowState& b) {
  for (int64_t r = 0; r < call.query_rows; ++r) {
    const float top = b.maximum[r] > a.maximum[r] ? b.maximum[r] : a.maximum[r];
    // Two empty sides keep their zeros: the difference of equal infinities must not become NaN.
    const float wa = a.maximum[r] == top ? 1 : std::exp(a.maximum[r] - top),
                wb = b.maximum[r] == top ? 1 : std::exp(b.maximum[r] - top);
    float *HWY_RESTRICT to = a.o + r * a.stride, *HWY_RESTRICT from = b.o + r * b.stride;
    for (int64_t c = 0; c < call.dv; ++c) to[c] = wa * to[c] + wb * from[c];
    a.sum[r] = wa * a.sum[r] + wb * b.sum[r];
    a.maximum[r] = top;
    if (b.best[r] > a.best[r]) {
      a.best[r] = b.best[r];
      a.best_slot[r] = b.best_slot[r];
    }
  }
}

/// The sink: one more key of value 0.
inline void join_sinks(const DecodeCall& call, int64_t h, const RowState& state) {
  for (int64_t r = 0; r < call.query_rows; ++r) {
    const float sink = call.p.sink_logit.at(0, h * call.group + r / call.rows, 0);
    if (sink == -INFINITY) continue;
    const float top = sink > state.maximum[r] ? sink : state.maximum[r];
    const float shrink = state.maximum[r] == top ? 1 : std::exp(state.maximum[r] - top);
    for (int64_t c = 0; c < call.dv; ++c) state.o[r * state.stride + c] *= shrink;
    state.sum[r] = state.sum[r] * shrink + std::exp(sink - top);
    state.maximum[r] = top;
  }
}

inline void write_column_sums(const DecodeCall& call, int64_t row, const RowState& state, float* buffer) {
  const View<float>& to = call.p.column_sum;
  const int64_t b = row / call.kv_heads, h = row % call.kv_heads, length = call.lengths[row];
  const bool per_head = to.size[1] == call.heads;
  const int64_t rows = per_head ? call.rows : call.query_rows;
  for (int64_t first = 0; first < call.query_rows; first += rows) {
    const int64_t head = per_head ? h * call.group + first / call.rows : h;
    for (int64_t s0 = 0; s0 < to.size[3]; s0 += kStepSlots) {
      const int64_t count = std::min(kStepSlots, to.size[3] - s0), real = std::clamp<int64_t>(length - s0, 0, count);
      std::fill_n(buffer, count, 0.0f);
      for (int64_t r = first; r < first + rows; ++r) {
        const float factor = state.sum[r] == 0 ? 0 : 1 / state.sum[r];
        add_weights(call.logits + call.logit_begin[row] + r * length + s0, state.maximum[r], factor, real, buffer);
      }
      for (int64_t k = 0; k < count; ++k) to.at(b, head, 0, s0 + k) = buffer[k];
    }
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
