// The delta rule, forward: a head's chunks one after the other, its state in the nearest caches.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/delta_chunk.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/delta_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct DeltaScratch {
  DeltaRows chunk;
  float *weights, *state, *out;

  DeltaScratch(Arena& arena, const DeltaTask& task)
      : chunk(arena, task),
        weights(arena.take<float>(task.chunk * chunk.padded)),
        state(arena.take<float>(task.d * chunk.rows.dv_width)),
        out(arena.take<float>(task.chunk * chunk.rows.dv_width)) {}
};

bool DeltaItem(const DeltaTask& task, const ChunkItem& item, void* block) {
  const FlushDenormals flush;
  Arena arena(block);
  const DeltaScratch s(arena, task);
  const DeltaChunkParams& p = task.p;
  const ChunkRows& rows = s.chunk.rows;
  const int64_t width = rows.d_width, dv_width = rows.dv_width, padded = s.chunk.padded;
  const TokenSpan& span = item.span;
  bool valid = s.chunk.decays.begin_head(p, item.head, task.chunk);
  read_state(p.initial_state, item, task.d, dv_width, s.state);
  for (int64_t begin = span.begin; begin < span.end; begin += task.chunk) {
    const int64_t n = std::min(task.chunk, span.end - begin);
    valid &= s.chunk.read(p, span.batch, item.head, begin, n);
    rows.read_queries(p, span.batch, item.head, begin, n);
    s.chunk.solve(s.state, n, task.d);
    const PairDecays& pairs = s.chunk.decays.pairs();
    lower_products(rows.q, width, s.chunk.transposed, padded, n, task.d, pairs.pairs, pairs.stride, s.weights, padded);
    const NextRows next = next_rows(p, span, item.head, begin + n, n, {&p.q, &p.k, &p.v});
    const FloatTarget out(p.out, span.batch, item.head, begin, s.out, dv_width);
    // A NaN or infinity that was written must not meet the zeros of queries before it.
    const int64_t most_rows = has_nonfinite(s.chunk.written, dv_width, n, dv_width) ? 1 : kTileRows;
    for_tiles(
        out.data, out.stride, n, dv_width / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          next.fetch(row, column, sum);
          add_rows(rows.q + row * width, width, s.state + column, dv_width, task.d, sum);
          scale_tile(pairs.reads + row, sum);
          add_lower(s.weights, padded, s.chunk.written + column, dv_width, row, sum);
        },
        store::Overwrite(), most_rows);
    out.write(n);
    s.chunk.add_tokens(n, task.d, s.state);
  }
  write_state(s.state, dv_width, p.final_state, item);
  return valid;
}

int64_t DeltaBytes(const DeltaTask& task) {
  Arena arena;
  const DeltaScratch scratch(arena, task);
  return arena.used();
}

bool DeltaStep(const DeltaTask& task, const ChunkItem& item) {
  const DeltaChunkParams& p = task.p;
  const Lanes d;
  const TokenSpan& span = item.span;
  const auto token = [&](const AnyView& view) { return Token(view, span, item.head, task.heads); };
  const Token q = token(p.q), k = token(p.k), v = token(p.v), beta = token(p.beta), g = token(p.log_decay);
  const StateRows before(p.initial_state, item), after(p.final_state, item);
  const float log_decay = task.decay == DecayKind::none ? 0.0f : g.at(0);
  const Vector decay = decay_of(hn::Set(d, log_decay)), strength = hn::Set(d, beta.at(0));
  const auto scale = static_cast<float>(p.scale);
  for_columns(task.dv, [&]<int V>(int64_t column, int64_t count) {
    Vector state[V], found[V], written[V], sum[V];
    HWY_UNROLL(4) for (int i = 0; i < V; ++i) found[i] = sum[i] = hn::Zero(d);
    for (int64_t c = 0; c < task.d; ++c) {
      before.load(c, column, count, state);
      const Vector key = hn::Set(d, k.at(c));
      HWY_UNROLL(4) for (int i = 0; i < V; ++i) found[i] = hn::MulAdd(key, state[i], found[i]);
    }
    v.load(column, count, written);
    HWY_UNROLL(4) for (int i = 0; i < V; ++i) {
      written[i] = hn::Mul(strength, hn::NegMulAdd(decay, found[i], written[i]));
    }
    for (int64_t c = 0; c < task.d; ++c) {
      before.load(c, column, count, state);
      const Vector key = hn::Set(d, k.at(c)), query = hn::Set(d, q.at(c) * scale);
      HWY_UNROLL(4) for (int i = 0; i < V; ++i) {
        state[i] = hn::MulAdd(decay, state[i], hn::Mul(key, written[i]));
        sum[i] = hn::MulAdd(query, state[i], sum[i]);
      }
      after.store(state, c, column, count);
    }
    store_token(sum, p.out, span, item.head, column, count);
  });
  return !(log_decay > 0);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(DeltaItem);
HWY_EXPORT(DeltaBytes);
HWY_EXPORT(DeltaStep);

bool run_delta_item(const DeltaTask& task, const ChunkItem& item, void* block) {
  return HEED_DISPATCH(DeltaItem)(task, item, block);
}
int64_t delta_scratch_bytes(const DeltaTask& task) { return HEED_DISPATCH(DeltaBytes)(task); }
bool run_delta_step(const DeltaTask& task, const ChunkItem& item) { return HEED_DISPATCH(DeltaStep)(task, item); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
