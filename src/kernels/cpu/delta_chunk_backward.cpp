// The delta rule, backward: one sweep that keeps the state before every chunk, and one back over the chunks.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/delta_chunk_backward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/chunk_gradient-inl.h"
#include "kernels/cpu/delta_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct DeltaGradientScratch {
  DeltaRows chunk;
  GroupRows rows;
  float *weights, *d_weights;      ///< [C][padded] of pairs of queries and keys
  float* spreading;                ///< [C][padded] -diag(beta) L
  float* d_key_pairs;              ///< [C][padded] of pairs of keys, decayed
  float *erasing_keys, *turned;    ///< [C][d_width] -diag(beta) K; [dv][padded] what is written
  float *d_written, *d_errors;     ///< [C][dv_width], of the latter before beta
  float *d_found, *decayed_found;  ///< [C][dv_width] of f K S + L written
  float *state_transposed, *d_state, *d_state_transposed, *trail, *d_beta, *more;
  int64_t state_floats;

  DeltaGradientScratch(Arena& arena, const DeltaTask& task, int64_t longest)
      : chunk(arena, task), rows(arena, chunk.rows, task.chunk), state_floats(task.d * chunk.rows.dv_width) {
    const int64_t width = chunk.rows.d_width;
    for (float** to : {&weights, &d_weights, &spreading, &d_key_pairs})
      *to = arena.take<float>(task.chunk * chunk.padded);
    erasing_keys = arena.take<float>(task.chunk * width);
    turned = arena.take<float>(task.dv * chunk.padded);
    for (float** to : {&d_written, &d_errors, &d_found, &decayed_found})
      *to = arena.take<float>(task.chunk * chunk.rows.dv_width);
    state_transposed = arena.take<float>(task.dv * width);
    d_state = arena.take<float>(state_floats);
    d_state_transposed = arena.take<float>(task.dv * width);
    trail = arena.take<float>(state_floats * ((longest + task.chunk - 1) / task.chunk + 1));
    d_beta = arena.take<float>(task.chunk);
    more = arena.take<float>(task.chunk);
  }
};

/// to[r] = sum over columns of a[r] b[r]
HWY_INLINE void row_products(const float* a, const float* b, int64_t n, int64_t width, float factor, float* to) {
  const Lanes d;
  for (int64_t r = 0; r < n; ++r) {
    Vector sum = hn::Zero(d);
    for (int64_t at = r * width; at < (r + 1) * width; at += kLanes)
      sum = hn::MulAdd(hn::LoadU(d, a + at), hn::LoadU(d, b + at), sum);
    to[r] = factor * hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

class DeltaGradientHead {
 public:
  DeltaGradientHead(const DeltaTask& task, const DeltaChunkGrads& grads, const ChunkItem& item,
                    const DeltaGradientScratch& scratch)
      : task_(task),
        p_(task.p),
        g_(grads),
        s_(scratch),
        item_(item),
        span_(item.span),
        width_(scratch.chunk.rows.d_width),
        dv_width_(scratch.chunk.rows.dv_width),
        padded_(scratch.chunk.padded) {}

  ItemGradients run() {
    const int64_t chunks = (span_.length() + task_.chunk - 1) / task_.chunk;
    result_.valid &= s_.chunk.decays.begin_head(p_, item_.head, task_.chunk);
    read_state(p_.initial_state, item_, task_.d, dv_width_, s_.trail);
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t n = solve(i);
      std::copy_n(state_before(i), s_.state_floats, state_before(i + 1));
      s_.chunk.add_tokens(n, task_.d, state_before(i + 1));
    }
    read_state(g_.d_final_state, item_, task_.d, dv_width_, s_.d_state);
    turn(s_.d_state, s_.d_state_transposed);
    for (int64_t i = chunks - 1; i >= 0; --i) chunk(i);
    write_state(s_.d_state, dv_width_, g_.d_initial_state, item_);
    return result_;
  }

 private:
  float* state_before(int64_t i) const { return s_.trail + i * s_.state_floats; }
  void turn(const float* state, float* to) const {
    pack_transposed(state, dv_width_, task_.d, task_.dv, 1, to, width_);
  }
  void lower(const float* a, int64_t lda, const float* b, int64_t n, int64_t depth, float* to) const {
    const PairDecays& decays = s_.chunk.decays.pairs();
    lower_products(a, lda, b, padded_, n, depth, decays.pairs, decays.stride, to, padded_);
  }

  /// Reads chunk i and finds what it writes; returns its tokens.
  int64_t solve(int64_t i) {
    const int64_t begin = span_.begin + i * task_.chunk, n = std::min(task_.chunk, span_.end - begin);
    result_.valid &= s_.chunk.read(p_, span_.batch, item_.head, begin, n);
    s_.chunk.solve(state_before(i), n, task_.d);
    return n;
  }

  void chunk(int64_t i) {
    const int64_t begin = span_.begin + i * task_.chunk, n = solve(i);
    const ChunkRows& in = s_.chunk.rows;
    in.read_queries(p_, span_.batch, item_.head, begin, n);
    s_.chunk.decays.apply_to_queries(in.q, n, in.decayed_q);
    read_rows(g_.d_out, span_.batch, item_.head, begin, n, s_.rows.d_out, dv_width_);
    turn(state_before(i), s_.state_transposed);
    values(n);
    pairs(n);
    queries_and_keys(
        n, next_rows(p_, span_, item_.head, begin - task_.chunk, task_.chunk, {&p_.q, &p_.k, &p_.v, &g_.d_out}));
    state(n);
    if (g_.d_log_decay) {
      column_products(s_.state_transposed, s_.d_state_transposed, task_.dv, width_, s_.rows.gate);
      row_products(s_.d_found, s_.chunk.found, n, dv_width_, 2, s_.more);
      result_.d_constant += s_.rows.write_gates(task_.decay, g_, span_, item_.head, begin, n, s_.more);
    }
    s_.rows.add_own_pairs(n);
    s_.rows.write(p_, g_, span_, item_.head, begin, n);
    for (int64_t r = 0; g_.d_beta && r < n; ++r)
      *g_.d_beta.as<float>().row(span_.batch, item_.head, begin + r) = s_.d_beta[r];
  }

  /// What is written gets weights^T d_out + decayed K dS; errors get, before beta, that less L^T diag(beta) times
  /// theirs; after beta it is the gradient of the values.
  void values(int64_t n) const {
    const DeltaRows& in = s_.chunk;
    lower(in.rows.q, width_, in.transposed, n, task_.d, s_.weights);
    negative_rows(in.rows.k, in.beta, n, width_, s_.erasing_keys);
    lower(s_.erasing_keys, width_, in.transposed, n, task_.d, s_.spreading);
    for_tiles(
        s_.d_written, dv_width_, n, dv_width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          add_rows(in.rows.decayed_k + row * width_, width_, s_.d_state + column, dv_width_, task_.d, sum);
          add_lower_transposed(s_.weights, padded_, s_.rows.d_out + column, dv_width_, row, n, sum);
        },
        store::Overwrite());
    const int64_t vectors = dv_width_ / kLanes;
    for (int64_t v = 0; v < vectors; v += kTileVectors) {
      if (vectors - v >= 3) {
        solve_back<3>(n, v * kLanes);
      } else if (vectors - v == 2) {
        solve_back<2>(n, v * kLanes);
      } else {
        solve_back<1>(n, v * kLanes);
      }
    }
    row_products(in.errors, s_.d_errors, n, dv_width_, 1, s_.d_beta);
    scale_rows(s_.d_errors, in.beta, n, dv_width_, s_.rows.d_v);
    negative_rows(s_.d_errors, in.beta, n, dv_width_, s_.d_found);
    scale_rows(s_.d_found, in.decays.pairs().reads, n, dv_width_, s_.decayed_found);
  }

  /// d_errors = d_written + spreading^T d_errors, the last rows first.
  template <int V>
  void solve_back(int64_t n, int64_t column) const {
    int64_t row = n;
    const auto tile = [&]<int R>() HEED_ALWAYS_INLINE {
      row -= R;
      const int64_t after = row + R;
      const float *from = s_.d_written + row * dv_width_ + column, *triangle = s_.spreading + row * padded_ + row;
      float* to = s_.d_errors + row * dv_width_ + column;
      Vector sum[R][V];
      for_tile<R, V>([&](int r, int v)
                         HEED_ALWAYS_INLINE { sum[r][v] = hn::LoadU(Lanes(), from + r * dv_width_ + v * kLanes); });
      accumulate<R, V, true>(s_.spreading + after * padded_ + row, padded_, s_.d_errors + after * dv_width_ + column,
                             dv_width_, n - after, sum);
      HWY_UNROLL(8) for (int j = R - 1; j > 0; --j) {
        HWY_UNROLL(8) for (int r = 0; r < j; ++r) {
          const Vector factor = hn::Set(Lanes(), triangle[j * padded_ + r]);
          HWY_UNROLL(4) for (int v = 0; v < V; ++v) add_product(factor, sum[j][v], sum[r][v]);
        }
      }
      for_tile<R, V>([&](int r, int v)
                         HEED_ALWAYS_INLINE { hn::StoreU(sum[r][v], Lanes(), to + r * dv_width_ + v * kLanes); });
    };
    while (row >= kTileRows) tile.template operator()<kTileRows>();
    while (row > 0) tile.template operator()<1>();
  }
  template <int R, int V, class Visit>
  static HWY_INLINE void for_tile(const Visit& visit) {
    HWY_UNROLL(8) for (int r = 0; r < R; ++r) { HWY_UNROLL(4) for (int v = 0; v < V; ++v) visit(r, v); }
  }

  /// Gradients of the products of queries and keys, and of keys and keys.
  void pairs(int64_t n) const {
    pack_transposed(s_.chunk.written, dv_width_, n, task_.dv, 1, s_.turned, padded_);
    lower(s_.rows.d_out, dv_width_, s_.turned, n, task_.dv, s_.d_weights);
    take_diagonal(s_.d_weights, n, padded_, s_.rows.own_pair);
    lower(s_.d_found, dv_width_, s_.turned, n, task_.dv, s_.d_key_pairs);
    for (int64_t r = 0; r < n; ++r) s_.d_key_pairs[r * padded_ + r] = 0;
  }

  void queries_and_keys(int64_t n, const NextRows& next) const {
    const ChunkRows& in = s_.chunk.rows;
    const PairDecays& decays = s_.chunk.decays.pairs();
    for_tiles(
        s_.rows.d_q, width_, n, width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          next.fetch(row, column, sum);
          add_rows(s_.rows.d_out + row * dv_width_, dv_width_, s_.state_transposed + column, width_, task_.dv, sum);
          scale_tile(decays.reads + row, sum);
          add_lower(s_.d_weights, padded_, in.k + column, width_, row, sum);
        },
        store::Overwrite());
    for_tiles(
        s_.rows.d_k, width_, n, width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          add_rows(s_.chunk.written + row * dv_width_, dv_width_, s_.d_state_transposed + column, width_, task_.dv,
                   sum);
          scale_tile(decays.writes(n) + row, sum);
          add_rows(s_.decayed_found + row * dv_width_, dv_width_, s_.state_transposed + column, width_, task_.dv, sum);
          add_lower_transposed(s_.d_weights, padded_, in.q + column, width_, row, n, sum);
          add_lower(s_.d_key_pairs, padded_, in.k + column, width_, row, sum);
          add_lower_transposed(s_.d_key_pairs, padded_, in.k + column, width_, row, n, sum);
        },
        store::Overwrite());
  }

  /// dS over the chunk.
  void state(int64_t n) const {
    const DeltaRows& in = s_.chunk;
    for_tiles(
        s_.d_state, dv_width_, task_.d, dv_width_ / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          add_columns(in.rows.decayed_q + row, width_, s_.rows.d_out + column, dv_width_, n, sum);
          add_columns(in.scaled + row, width_, s_.rows.d_v + column, dv_width_, n, sum);
        },
        store::RescaleRowsAdd(in.decays.totals(n)));
    turn(s_.d_state, s_.d_state_transposed);
  }

  const DeltaTask& task_;
  const DeltaChunkParams& p_;
  const DeltaChunkGrads& g_;
  const DeltaGradientScratch& s_;
  const ChunkItem item_;
  const TokenSpan span_;
  const int64_t width_, dv_width_, padded_;
  ItemGradients result_;
};

ItemGradients DeltaGradientItem(const DeltaTask& task, const DeltaChunkGrads& grads, const ChunkItem& item,
                                int64_t longest, void* block) {
  const FlushDenormals flush;
  Arena arena(block);
  const DeltaGradientScratch scratch(arena, task, longest);
  return DeltaGradientHead(task, grads, item, scratch).run();
}

int64_t DeltaGradientBytes(const DeltaTask& task, int64_t longest) {
  Arena arena;
  const DeltaGradientScratch scratch(arena, task, longest);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(DeltaGradientItem);
HWY_EXPORT(DeltaGradientBytes);

ItemGradients run_delta_gradient_item(const DeltaTask& task, const DeltaChunkGrads& grads, const ChunkItem& item,
                                      int64_t longest, void* block) {
  return HEED_DISPATCH(DeltaGradientItem)(task, grads, item, longest, block);
}
int64_t delta_gradient_scratch_bytes(const DeltaTask& task, int64_t longest) {
  return HEED_DISPATCH(DeltaGradientBytes)(task, longest);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
