// Decayed linear attention, forward: a head's chunks one after the other, its state in the nearest caches.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_chunk.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/chunk_rows-inl.h"
#include "kernels/cpu/chunk_task.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct LinearScratch {
  ChunkRows rows;
  float *keys_transposed, *weights, *state, *out;
  ChunkDecays decays;

  LinearScratch(Arena& arena, const LinearTask& task)
      : rows(arena, task.p, task.chunk),
        keys_transposed(arena.take<float>(task.d * round_up(task.chunk, kLanes))),
        weights(arena.take<float>(task.chunk * std::max(round_up(task.chunk, kLanes), kMostChannelChunk))),
        state(arena.take<float>(task.d * rows.dv_width)),
        out(arena.take<float>(task.chunk * rows.dv_width)),
        decays(arena, task.decay, task.chunk, rows.d_width) {}
};

class LinearHead {
 public:
  LinearHead(const LinearTask& task, const ChunkItem& item, const LinearScratch& scratch)
      : task_(task), p_(task.p), s_(scratch), item_(item), span_(item.span) {}

  bool run() {
    bool valid = s_.decays.begin_head(p_, item_.head, task_.chunk);
    read_state(p_.initial_state, item_, task_.d, s_.rows.dv_width, s_.state);
    for (int64_t t = span_.begin; t < span_.end; t += task_.chunk)
      valid &= chunk(t, std::min(task_.chunk, span_.end - t));
    write_state(s_.state, s_.rows.dv_width, p_.final_state, item_);
    return valid;
  }

  bool state(float* kept) {
    bool valid = s_.decays.begin_head(p_, item_.head, task_.chunk);
    read_state({}, item_, task_.d, s_.rows.dv_width, s_.state);
    std::fill_n(kept, task_.d, 1.0f);
    for (int64_t t = span_.begin; t < span_.end; t += task_.chunk) {
      const int64_t n = std::min(task_.chunk, span_.end - t);
      s_.rows.read_keys_and_values(p_, span_.batch, item_.head, t, n);
      valid &= s_.decays.read(p_, span_.batch, item_.head, t, n);
      s_.decays.apply_to_keys(s_.rows.k, n, s_.rows.decayed_k);
      add_to_state(s_.rows.decayed_k, n, next_rows(p_, span_, item_.head, t + n, n, {&p_.k, &p_.v}));
      const float* totals = s_.decays.totals(n);
      for (int64_t c = 0; c < task_.d; ++c) kept[c] *= totals[c];
    }
    write_state(s_.state, s_.rows.dv_width, p_.final_state, item_);
    return valid;
  }

  void state_gradient(const AnyView& d_out) {
    s_.decays.begin_head(p_, item_.head, task_.chunk);
    read_state({}, item_, task_.d, s_.rows.dv_width, s_.state);
    const int64_t chunks = (span_.length() + task_.chunk - 1) / task_.chunk;
    for (int64_t i = chunks - 1; i >= 0; --i) {
      const int64_t t = span_.begin + i * task_.chunk, n = std::min(task_.chunk, span_.end - t);
      s_.rows.read_queries(p_, span_.batch, item_.head, t, n);
      read_rows(d_out, span_.batch, item_.head, t, n, s_.rows.v, s_.rows.dv_width);
      s_.decays.read(p_, span_.batch, item_.head, t, n);
      s_.decays.apply_to_queries(s_.rows.q, n, s_.rows.decayed_q);
      add_to_state(s_.rows.decayed_q, n, next_rows(p_, span_, item_.head, t - task_.chunk, n, {&p_.q, &d_out}));
    }
    write_state(s_.state, s_.rows.dv_width, p_.final_state, item_);
  }

 private:
  /// state <- what a chunk of n leaves of it + rows^T values
  void add_to_state(const float* rows, int64_t n, const NextRows& next) const {
    const int64_t width = s_.rows.d_width, dv_width = s_.rows.dv_width;
    for_tiles(
        s_.state, dv_width, task_.d, dv_width / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          next.fetch(row, column, sum);
          add_columns(rows + row, width, s_.rows.v + column, dv_width, n, sum);
        },
        store::RescaleRowsAdd(s_.decays.totals(n)));
  }

  bool chunk(int64_t begin, int64_t n) const {
    const ChunkRows& rows = s_.rows;
    const int64_t width = rows.d_width, dv_width = rows.dv_width, padded = round_up(task_.chunk, kLanes);
    rows.read_queries(p_, span_.batch, item_.head, begin, n);
    rows.read_keys_and_values(p_, span_.batch, item_.head, begin, n);
    const bool valid = s_.decays.read(p_, span_.batch, item_.head, begin, n);
    s_.decays.apply_to_keys(rows.k, n, rows.decayed_k);
    const float* reads = s_.decays.reads();
    if (reads == nullptr) s_.decays.apply_to_queries(rows.q, n, rows.decayed_q);
    const float* queries = reads == nullptr ? rows.decayed_q : rows.q;
    const int64_t stride = s_.decays.pair_products(rows.q, rows.k, n, task_.d, s_.keys_transposed, padded, s_.weights);

    NextRows next = next_rows(p_, span_, item_.head, begin + n, n, {&p_.q, &p_.k, &p_.v});
    if (task_.decay == DecayKind::channel) next.add(p_.log_decay, shared_head(p_.log_decay, item_.head, task_.heads));
    const FloatTarget out(p_.out, span_.batch, item_.head, begin, s_.out, dv_width);
    // A NaN or infinity among the values must not meet the zeros of pairs that nobody sees.
    const int64_t most_rows = has_nonfinite(rows.v, dv_width, n, dv_width) ? 1 : kTileRows;
    for_tiles(
        out.data, out.stride, n, dv_width / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          next.fetch(row, column, sum);
          add_rows(queries + row * width, width, s_.state + column, dv_width, task_.d, sum);
          if (reads != nullptr) scale_tile(reads + row, sum);
          add_lower(s_.weights, stride, rows.v + column, dv_width, row, sum);
        },
        store::Overwrite(), most_rows);
    out.write(n);
    add_to_state(rows.decayed_k, n, NextRows());
    return valid;
  }

  const LinearTask& task_;
  const LinearChunkParams& p_;
  const LinearScratch& s_;
  const ChunkItem item_;
  const TokenSpan span_;
};

bool LinearItem(const LinearTask& task, const ChunkItem& item, void* block) {
  const FlushDenormals flush;
  Arena arena(block);
  const LinearScratch scratch(arena, task);
  return LinearHead(task, item, scratch).run();
}

bool LinearState(const LinearTask& task, const ChunkItem& item, float* kept, void* block) {
  const FlushDenormals flush;
  Arena arena(block);
  const LinearScratch scratch(arena, task);
  return LinearHead(task, item, scratch).state(kept);
}

void LinearStateGradient(const LinearTask& task, const AnyView& d_out, const ChunkItem& item, void* block) {
  const FlushDenormals flush;
  Arena arena(block);
  const LinearScratch scratch(arena, task);
  LinearHead(task, item, scratch).state_gradient(d_out);
}

int64_t LinearBytes(const LinearTask& task) {
  Arena arena;
  const LinearScratch scratch(arena, task);
  return arena.used();
}

bool LinearStep(const LinearTask& task, const ChunkItem& item) {
  const LinearChunkParams& p = task.p;
  const TokenSpan& span = item.span;
  const Token q(p.q, span, item.head, task.heads), k(p.k, span, item.head, task.heads),
      v(p.v, span, item.head, task.heads), g(p.log_decay, span, item.head, task.heads);
  const StateRows before(p.initial_state, item), after(p.final_state, item);
  bool valid = true;
  const auto scale = static_cast<float>(p.scale);
  for_columns(task.dv, [&]<int V>(int64_t column, int64_t count) {
    Vector value[V], sum[V];
    v.load(column, count, value);
    HWY_UNROLL(4) for (int i = 0; i < V; ++i) sum[i] = hn::Zero(Lanes());
    float decay = 1;
    for (int64_t c = 0; c < task.d; ++c) {
      if (task.decay == DecayKind::channel || (task.decay != DecayKind::none && c == 0)) {
        const float log_decay = g.at(c);
        valid &= !(log_decay > 0);
        decay = hn::GetLane(decay_of(hn::Set(Lanes(), log_decay)));
      }
      Vector state[V];
      before.load(c, column, count, state);
      const Vector a = hn::Set(Lanes(), decay), key = hn::Set(Lanes(), k.at(c)),
                   query = hn::Set(Lanes(), q.at(c) * scale);
      HWY_UNROLL(4) for (int i = 0; i < V; ++i) {
        state[i] = hn::MulAdd(a, state[i], hn::Mul(key, value[i]));
        sum[i] = hn::MulAdd(query, state[i], sum[i]);
      }
      after.store(state, c, column, count);
    }
    store_token(sum, p.out, span, item.head, column, count);
  });
  return valid;
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(LinearItem);
HWY_EXPORT(LinearBytes);
HWY_EXPORT(LinearStep);
HWY_EXPORT(LinearState);
HWY_EXPORT(LinearStateGradient);

bool run_linear_item(const LinearTask& task, const ChunkItem& item, void* block) {
  return HEED_DISPATCH(LinearItem)(task, item, block);
}
int64_t linear_scratch_bytes(const LinearTask& task) { return HEED_DISPATCH(LinearBytes)(task); }
bool run_linear_step(const LinearTask& task, const ChunkItem& item) { return HEED_DISPATCH(LinearStep)(task, item); }
bool run_linear_state(const LinearTask& task, const ChunkItem& item, float* kept, void* block) {
  return HEED_DISPATCH(LinearState)(task, item, kept, block);
}
void run_linear_state_gradient(const LinearTask& task, const AnyView& d_out, const ChunkItem& item, void* block) {
  return HEED_DISPATCH(LinearStateGradient)(task, d_out, item, block);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
