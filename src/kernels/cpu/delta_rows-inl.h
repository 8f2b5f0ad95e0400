// A chunk of the delta rule: what its tokens write, by a triangular solve in place of token after token.
#if defined(HEED_KERNELS_CPU_DELTA_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DELTA_ROWS_INL_H_
#undef HEED_KERNELS_CPU_DELTA_ROWS_INL_H_
#else
#define HEED_KERNELS_CPU_DELTA_ROWS_INL_H_
#endif

#include "kernels/cpu/chunk_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

namespace store {

/// C = A B + values, and A B itself in `products`.
struct AddValues : Overwrite {
  const float* values;
  float* products;
  ptrdiff_t stride;
  AddValues(const float* values, float* products, ptrdiff_t stride)
      : values(values), products(products), stride(stride) {}
  HWY_INLINE int64_t open(int64_t column, int64_t) const { return column; }
  HWY_INLINE Vector join(int64_t column, Vector sum, const float*, int64_t row) const {
    hn::StoreU(sum, Lanes(), products + row * stride + column);
    return hn::Add(sum, hn::LoadU(Lanes(), values + row * stride + column));
  }
  HWY_INLINE void close(int64_t, int64_t) const {}
};

}  // namespace store

/// to[r] = -factors[r] * from[r]
HWY_INLINE void negative_rows(const float* from, const float* factors, int64_t n, int64_t width, float* to) {
  const Lanes d;
  for (int64_t r = 0; r < n; ++r) {
    const Vector factor = hn::Set(d, -factors[r]);
    for (int64_t at = r * width; at < (r + 1) * width; at += kLanes)
      hn::StoreU(hn::Mul(factor, hn::LoadU(d, from + at)), d, to + at);
  }
}

/// What the tokens of a chunk find under their keys, miss and write: with D the decays between tokens, f those since
/// the state S before the chunk, L the strict lower triangle of (K K^T) * D,
///   errors = V - f K S - L diag(beta) errors,   written = diag(beta) errors.
struct DeltaRows {
  ChunkRows rows;
  ChunkDecays decays;
  int64_t padded;
  float* beta;        ///< [C]
  float* transposed;  ///< [d][padded] keys
  float* scaled;      ///< [C][d_width] -f K after the solve
  float* erasing;     ///< [C][padded] -L diag(beta)
  float* found;       ///< [C][dv_width] -(f K S + L written): what was under the keys, negative
  float* errors;      ///< [C][dv_width]
  float* written;     ///< [C][dv_width]

  DeltaRows(Arena& arena, const DeltaTask& task)
      : rows(arena, task.p, task.chunk),
        decays(arena, task.decay, task.chunk, rows.d_width),
        padded(round_up(task.chunk, kLanes)),
        beta(arena.take<float>(task.chunk)),
        transposed(arena.take<float>(std::max(task.d, task.dv) * padded)),
        scaled(arena.take<float>(task.chunk * rows.d_width)),
        erasing(arena.take<float>(task.chunk * padded)),
        found(arena.take<float>(task.chunk * rows.dv_width)),
        errors(arena.take<float>(task.chunk * rows.dv_width)),
        written(arena.take<float>(task.chunk * rows.dv_width)) {}

  /// Tokens [begin, begin + n), all but their queries; false where a log decay is above 0.
  bool read(const DeltaChunkParams& p, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    rows.read_keys_and_values(p, b, h, begin, n);
    const auto strengths = p.beta.as<const float>();
    for (int64_t r = 0; r < n; ++r) beta[r] = *strengths.row(b, shared_head(p.beta, h, p.out.size[1]), begin + r);
    const bool valid = decays.read(p, b, h, begin, n);
    decays.apply_to_keys(rows.k, n, rows.decayed_k);
    return valid;
  }

  /// From the state [d][dv_width] before the chunk. `transposed` then holds the keys.
  void solve(const float* state, int64_t n, int64_t d) const {
    const int64_t width = rows.d_width, dv_width = rows.dv_width;
    const PairDecays& pairs = decays.pairs();
    negative_rows(rows.k, beta, n, width, scaled);
    pack_transposed(scaled, width, n, d, 1, transposed, padded);
    lower_products(rows.k, width, transposed, padded, n, d, pairs.pairs, pairs.stride, erasing, padded);
    negative_rows(rows.k, pairs.reads, n, width, scaled);
    for_tiles(
        errors, dv_width, n, dv_width / kLanes,
        [&](int64_t row, int64_t column, auto& sum) HEED_ALWAYS_INLINE {
          add_rows(scaled + row * width, width, state + column, dv_width, d, sum);
          add_rows(erasing + row * padded, padded, errors + column, dv_width, row, sum);
          add_within(erasing + row * padded + row, rows.v + row * dv_width + column, sum);
        },
        store::AddValues(rows.v, found, dv_width));
    scale_rows(errors, beta, n, dv_width, written);
    pack_transposed(rows.k, width, n, d, 1, transposed, padded);
  }

  /// state <- that after the chunk.
  void add_tokens(int64_t n, int64_t d, float* state) const {
    multiply_columns(rows.decayed_k, rows.d_width, written, rows.dv_width, state, rows.dv_width, d,
                     rows.dv_width / kLanes, n, store::RescaleRowsAdd(decays.totals(n)));
  }

 private:
  /// The rows of a register tile meet those before them in it: their errors are sum + values.
  template <int R, int V>
  HWY_INLINE void add_within(const float* triangle, const float* values, Vector (&sum)[R][V]) const {
    const Lanes d;
    HWY_UNROLL(8) for (int j = 0; j + 1 < R; ++j) {
      Vector error[V];
      HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
        error[v] = hn::Add(sum[j][v], hn::LoadU(d, values + j * rows.dv_width + v * kLanes));
      }
      HWY_UNROLL(8) for (int r = j + 1; r < R; ++r) {
        const Vector factor = hn::Set(d, triangle[r * padded + j]);
        HWY_UNROLL(4) for (int v = 0; v < V; ++v) add_product(factor, error[v], sum[r][v]);
      }
    }
  }
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
