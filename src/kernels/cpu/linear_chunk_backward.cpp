// Decayed linear attention, backward: one sweep that keeps the state at the beginning of every group of chunks, and one
// back over the groups.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_chunk_backward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>
#include <numeric>

#include "kernels/cpu/chunk_gradient-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct LinearGradientScratch {
  GroupRows rows;
  float *transposed, *weights, *d_weights, *state, *d_state, *d_state_transposed, *ones, *trail;
  std::vector<ChunkDecays> decays;  ///< of the chunks of a group
  int64_t padded, state_floats;

  LinearGradientScratch(Arena& arena, const LinearTask& task, int64_t longest)
      : rows(arena, ChunkRows(arena, task.p, task.group), task.group), padded(round_up(task.chunk, kLanes)) {
    const int64_t stride = std::max(padded, kMostChannelChunk), width = rows.inputs.d_width,
                  dv_width = rows.inputs.dv_width;
    transposed = arena.take<float>(std::max(task.d, task.dv) * padded);
    weights = arena.take<float>(task.chunk * stride);
    d_weights = arena.take<float>(task.group * stride);
    state_floats = task.dv * width;
    state = arena.take<float>(state_floats);
    d_state = arena.take<float>(task.d * dv_width);
    d_state_transposed = arena.take<float>(state_floats);
    ones = arena.take<float>(task.chunk * stride);
    for (int64_t t = 0; t < task.group; t += task.chunk) decays.emplace_back(arena, task.decay, task.chunk, width);
    trail = arena.take<float>(state_floats * ((longest + task.group - 1) / task.group + 1));
  }
};

class LinearGradientHead {
 public:
  LinearGradientHead(const LinearTask& task, const LinearChunkGrads& grads, const ChunkItem& item,
                     LinearGradientScratch& scratch)
      : task_(task),
        p_(task.p),
        g_(grads),
        s_(scratch),
        item_(item),
        span_(item.span),
        width_(scratch.rows.inputs.d_width),
        dv_width_(scratch.rows.inputs.dv_width) {}

  ItemGradients run() {
    for (const ChunkDecays& decays : s_.decays) result_.valid &= decays.begin_head(p_, item_.head, task_.chunk);
    if (task_.decay == DecayKind::channel || task_.decay == DecayKind::given)
      lower_ones(s_.ones, task_.chunk, s_.padded);
    const int64_t groups = (span_.length() + task_.group - 1) / task_.group;
    read_transposed_state(p_.initial_state, item_, task_.d, task_.dv, width_, s_.d_state, dv_width_, s_.trail);
    for (int64_t i = 0; i < groups; ++i) walk(i);
    read_state(g_.d_final_state, item_, task_.d, dv_width_, s_.d_state);
    turn_d_state();
    for (int64_t i = groups - 1; i >= 0; --i) group(i);
    write_state(s_.d_state, dv_width_, g_.d_initial_state, item_);
    return result_;
  }

 private:
  float* state_before(int64_t group) const { return s_.trail + group * s_.state_floats; }
  int64_t tokens_of(int64_t group) const { return std::min(task_.group, span_.length() - group * task_.group); }

  /// state [dv][d] <- that after n more tokens, whose rows begin at row `at` of the group.
  void add_tokens(const ChunkDecays& decays, int64_t at, int64_t n, float* state, const NextRows& next) const {
    const ChunkRows& in = s_.rows.inputs;
    const float *v = in.v + at * dv_width_, *k = in.decayed_k + at * width_;
    for_tiles(
        state, width_, task_.dv, width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          next.fetch(row, column, sum);
          add_columns(v + row, dv_width_, k + column, width_, n, sum);
        },
        store::RescaleAdd(decays.totals(n)));
  }

  /// Keys, values and decays.
  void read_group(int64_t i) {
    const int64_t begin = span_.begin + i * task_.group, count = tokens_of(i);
    const ChunkRows& in = s_.rows.inputs;
    in.read_keys_and_values(p_, span_.batch, item_.head, begin, count);
    for (int64_t at = 0; at < count; at += task_.chunk) {
      const int64_t n = std::min(task_.chunk, count - at);
      const ChunkDecays& decays = s_.decays[at / task_.chunk];
      result_.valid &= decays.read(p_, span_.batch, item_.head, begin + at, n);
      decays.apply_to_keys(in.k + at * width_, n, in.decayed_k + at * width_);
    }
  }

  void walk(int64_t i) {
    read_group(i);
    std::copy_n(state_before(i), s_.state_floats, state_before(i + 1));
    const int64_t begin = span_.begin + i * task_.group, count = tokens_of(i);
    for (int64_t at = 0; at < count; at += task_.chunk) {
      const int64_t n = std::min(task_.chunk, count - at);
      const NextRows next = next_rows(p_, span_, item_.head, begin + at + task_.group, n, {&p_.k, &p_.v});
      add_tokens(s_.decays[at / task_.chunk], at, n, state_before(i + 1), next);
    }
  }

  void group(int64_t i) {
    const int64_t begin = span_.begin + i * task_.group, count = tokens_of(i);
    read_group(i);
    const ChunkRows& in = s_.rows.inputs;
    in.read_queries(p_, span_.batch, item_.head, begin, count);
    read_rows(g_.d_out, span_.batch, item_.head, begin, count, s_.rows.d_out, dv_width_);
    const float* state = state_before(i);
    for (int64_t at = 0; at < count; at += task_.chunk) {
      const int64_t n = std::min(task_.chunk, count - at);
      s_.decays[at / task_.chunk].apply_to_queries(in.q + at * width_, n, in.decayed_q + at * width_);
      const NextRows next =
          next_rows(p_, span_, item_.head, begin + at - task_.group, n, {&p_.q, &p_.k, &p_.v, &g_.d_out});
      queries(begin, at, n, state, next);
      if (at + n == count) break;
      if (state != s_.state) std::copy_n(state, s_.state_floats, s_.state);
      state = s_.state;
      add_tokens(s_.decays[at / task_.chunk], at, n, s_.state, NextRows());
    }
    if (g_.d_coefficients.carries) {
      column_products(state_before(i), s_.d_state_transposed, task_.dv, width_, s_.rows.gate);
      *coefficient_row(g_.d_coefficients.carries, span_.begin / task_.group + i) =
          std::accumulate(s_.rows.gate, s_.rows.gate + width_, 0.0f);
    }
    for (int64_t at = (count - 1) / task_.chunk * task_.chunk; at >= 0; at -= task_.chunk)
      keys_and_values(begin, at, std::min(task_.chunk, count - at));
    if (g_.d_log_decay) {
      column_products(state_before(i), s_.d_state_transposed, task_.dv, width_, s_.rows.gate);
      result_.d_constant += s_.rows.write_gates(task_.decay, g_, span_, item_.head, begin, count);
    }
    s_.rows.add_own_pairs(count);
    s_.rows.write(p_, g_, span_, item_.head, begin, count);
  }

  const ChunkDecays& decays_at(int64_t at) const { return s_.decays[at / task_.chunk]; }
  float* d_weights_at(int64_t at) const { return s_.d_weights + at * s_.padded; }

  // Of the chunk at row `at` of the group that begins at token `begin`.

  /// d_q = (d_out S^T) decayed + d_weights K, of scaled queries and without a token's pair with itself.
  void queries(int64_t begin, int64_t at, int64_t n, const float* state, const NextRows& next) const {
    const GroupRows& rows = s_.rows;
    const ChunkDecays& decays = decays_at(at);
    const bool channel = task_.decay == DecayKind::channel;
    const float *d_out = rows.d_out + at * dv_width_, *k = rows.inputs.k + at * width_;
    float *d_weights = d_weights_at(at), *d_q = rows.d_q + at * width_;
    if (g_.d_coefficients.pairs) write_pairs(begin, n);
    pack_transposed(rows.inputs.v + at * dv_width_, dv_width_, n, task_.dv, 1, s_.transposed, s_.padded);
    const PairDecays& pairs = decays.pairs();
    lower_products(d_out, dv_width_, s_.transposed, s_.padded, n, task_.dv, channel ? s_.ones : pairs.pairs, s_.padded,
                   d_weights, s_.padded);
    take_diagonal(d_weights, n, s_.padded, rows.own_pair + at);
    if (channel) {
      multiply_rows(d_out, dv_width_, state, width_, d_q, width_, n, width_ / kLanes, task_.dv, store::Overwrite());
      multiply(d_q, decays.channels().reads, n * width_, d_q);
      decays.channels().add_query_gradients(d_weights, s_.padded, k, n, d_q);
      return;
    }
    if (task_.decay == DecayKind::given) {
      multiply_rows(d_out, dv_width_, state, width_, d_q, width_, n, width_ / kLanes, task_.dv, store::Overwrite());
      write_row_products(d_q, rows.inputs.q + at * width_, begin + at, n, g_.d_coefficients.reads);
      for_tiles(
          d_q, width_, n, width_ / kLanes,
          [&](int64_t row, int64_t column, auto& sum)
              HEED_ALWAYS_INLINE { add_lower(d_weights, s_.padded, k + column, width_, row, sum); },
          store::RescaleRowsAdd(pairs.reads));
      return;
    }
    for_tiles(
        d_q, width_, n, width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          next.fetch(row, column, sum);
          add_rows(d_out + row * dv_width_, dv_width_, state + column, width_, task_.dv, sum);
          scale_tile(pairs.reads + row, sum);
          add_lower(d_weights, s_.padded, k + column, width_, row, sum);
        },
        store::Overwrite());
  }

  /// d_v = K decayed dS + weights^T d_out, d_k = (V dS^T) decayed + d_weights^T Q, and dS over the chunk.
  void keys_and_values(int64_t begin, int64_t at, int64_t n) const {
    const GroupRows& rows = s_.rows;
    const ChunkDecays& decays = decays_at(at);
    const bool channel = task_.decay == DecayKind::channel;
    const ChunkRows& in = rows.inputs;
    const float *q = in.q + at * width_, *v = in.v + at * dv_width_, *d_out = rows.d_out + at * dv_width_;
    const float *decayed_k = in.decayed_k + at * width_, *d_weights = d_weights_at(at);
    float* d_k = rows.d_k + at * width_;
    const int64_t stride =
        decays.pair_products(q, in.k + at * width_, n, task_.d, s_.transposed, s_.padded, s_.weights);
    for_tiles(
        rows.d_v + at * dv_width_, dv_width_, n, dv_width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          add_rows(decayed_k + row * width_, width_, s_.d_state + column, dv_width_, task_.d, sum);
          add_lower_transposed(s_.weights, stride, d_out + column, dv_width_, row, n, sum);
        },
        store::Overwrite());
    if (channel) {
      multiply_rows(v, dv_width_, s_.d_state_transposed, width_, d_k, width_, n, width_ / kLanes, task_.dv,
                    store::Overwrite());
      multiply(d_k, decays.channels().writes, n * width_, d_k);
      decays.channels().add_key_gradients(d_weights, s_.padded, q, n, d_k);
    } else if (task_.decay == DecayKind::given) {
      multiply_rows(v, dv_width_, s_.d_state_transposed, width_, d_k, width_, n, width_ / kLanes, task_.dv,
                    store::Overwrite());
      write_row_products(d_k, in.k + at * width_, begin + at, n, g_.d_coefficients.writes);
      for_tiles(
          d_k, width_, n, width_ / kLanes,
          [&](int64_t row, int64_t column, auto& sum)
              HEED_ALWAYS_INLINE { add_lower_transposed(d_weights, s_.padded, q + column, width_, row, n, sum); },
          store::RescaleRowsAdd(decays.writes(n)));
    } else {
      for_tiles(
          d_k, width_, n, width_ / kLanes,
          [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
            add_rows(v + row * dv_width_, dv_width_, s_.d_state_transposed + column, width_, task_.dv, sum);
            scale_tile(decays.writes(n) + row, sum);
            add_lower_transposed(d_weights, s_.padded, q + column, width_, row, n, sum);
          },
          store::Overwrite());
    }
    multiply_columns(in.decayed_q + at * width_, width_, d_out, dv_width_, s_.d_state, dv_width_, task_.d,
                     dv_width_ / kLanes, n, store::RescaleRowsAdd(decays.totals(n)));
    turn_d_state();
  }

  float* coefficient_row(const AnyView& view, int64_t row) const {
    return view.as<float>().row(span_.batch, item_.head, row);
  }

  /// d_pairs = (Q K^T) * (d_out V^T) of a chunk, which is a group; 0 above the diagonal. Uses both weights.
  void write_pairs(int64_t begin, int64_t n) const {
    const ChunkRows& in = s_.rows.inputs;
    const auto products = [&](const float* a, int64_t width, const float* b, int64_t depth, float* to) {
      pack_transposed(b, width, n, depth, 1, s_.transposed, s_.padded);
      lower_products(a, width, s_.transposed, s_.padded, n, depth, s_.ones, s_.padded, to, s_.padded);
    };
    products(in.q, width_, in.k, task_.d, s_.weights);
    products(s_.rows.d_out, dv_width_, in.v, task_.dv, s_.d_weights);
    for (int64_t r = 0; r < n; ++r) {
      float* to = coefficient_row(g_.d_coefficients.pairs, begin + r);
      const float *a = s_.weights + r * s_.padded, *b = s_.d_weights + r * s_.padded;
      for (int64_t j = 0; j <= r; ++j) to[j] = a[j] * b[j];
      std::fill(to + r + 1, to + task_.chunk, 0.0f);
    }
  }

  /// Of every row the product of a with b, to tokens of a gradient that may not be asked for.
  void write_row_products(const float* a, const float* b, int64_t begin, int64_t n, const AnyView& to) const {
    if (!to) return;
    const Lanes d;
    for (int64_t r = 0; r < n; ++r) {
      Vector sum = hn::Zero(d);
      for (int64_t at = r * width_; at < (r + 1) * width_; at += kLanes)
        sum = hn::MulAdd(hn::LoadU(d, a + at), hn::LoadU(d, b + at), sum);
      *coefficient_row(to, begin + r) = hn::GetLane(hn::SumOfLanes(d, sum));
    }
  }

  void turn_d_state() const {
    pack_transposed(s_.d_state, dv_width_, task_.d, task_.dv, 1, s_.d_state_transposed, width_);
  }

  const LinearTask& task_;
  const LinearChunkParams& p_;
  const LinearChunkGrads& g_;
  LinearGradientScratch& s_;
  const ChunkItem item_;
  const TokenSpan span_;
  const int64_t width_, dv_width_;
  ItemGradients result_;
};

ItemGradients LinearGradientItem(const LinearTask& task, const LinearChunkGrads& grads, const ChunkItem& item,
                                 int64_t longest, void* block) {
  const FlushDenormals flush;
  Arena arena(block);
  LinearGradientScratch scratch(arena, task, longest);
  return LinearGradientHead(task, grads, item, scratch).run();
}

int64_t LinearGradientBytes(const LinearTask& task, int64_t longest) {
  Arena arena;
  const LinearGradientScratch scratch(arena, task, longest);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(LinearGradientItem);
HWY_EXPORT(LinearGradientBytes);

ItemGradients run_linear_gradient_item(const LinearTask& task, const LinearChunkGrads& grads, const ChunkItem& item,
                                       int64_t longest, void* block) {
  return HEED_DISPATCH(LinearGradientItem)(task, grads, item, longest, block);
}
int64_t linear_gradient_scratch_bytes(const LinearTask& task, int64_t longest) {
  return HEED_DISPATCH(LinearGradientBytes)(task, longest);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
