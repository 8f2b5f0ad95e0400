// The two products of the tile engine, lanes over the columns of B and C:
//   gemm_nn: C[r][c] (+)= sum_k A[r][k] * B[k][c]       scalars of a row of A are broadcast
//   gemm_tn: C[r][c]  += sum_k A[k][r] * B[k][c]        scalars of a column of A are broadcast
// B and C are scratch: rows of whole vectors. A is read in place, at any row stride.
#if defined(HEED_KERNELS_CPU_GEMM_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_GEMM_TILE_INL_H_
#undef HEED_KERNELS_CPU_GEMM_TILE_INL_H_
#else
#define HEED_KERNELS_CPU_GEMM_TILE_INL_H_
#endif

#include <cstddef>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

// What becomes of a register tile: where the sums of a column start, and how the result of each row joins what stands
// in C. `begin` comes before the sums of a register tile; `open` and `close` frame its rows, of which `row` is the
// first; `column` counts floats.
namespace store {

struct Nothing {};

/// C = A B
struct Overwrite {
  HWY_INLINE void begin() const {}
  HWY_INLINE Vector start(int64_t) const { return hn::Zero(Lanes()); }
  HWY_INLINE Nothing open(int64_t, int64_t) const { return {}; }
  HWY_INLINE Vector join(Nothing&, Vector sum, const float*, int64_t) const { return sum; }
  HWY_INLINE void close(const Nothing&, int64_t) const {}
};

/// C += A B
struct Add : Overwrite {
  HWY_INLINE Vector join(Nothing&, Vector sum, const float* c, int64_t) const {
    return hn::Add(hn::LoadU(Lanes(), c), sum);
  }
};

/// C = C * factor[column] + A B
struct RescaleAdd : Overwrite {
  const float* factor;
  explicit RescaleAdd(const float* factor) : factor(factor) {}
  HWY_INLINE Vector open(int64_t column, int64_t) const { return hn::LoadU(Lanes(), factor + column); }
  HWY_INLINE Vector join(Vector& f, Vector sum, const float* c, int64_t) const {
    return hn::MulAdd(hn::LoadU(Lanes(), c), f, sum);
  }
  HWY_INLINE void close(Vector, int64_t) const {}
};

/// C = A B, and maximum[column] = max(maximum[column], C[.][column])
struct Maximum : Overwrite {
  float* maximum;
  explicit Maximum(float* maximum) : maximum(maximum) {}
  HWY_INLINE Vector open(int64_t column, int64_t) const { return hn::LoadU(Lanes(), maximum + column); }
  HWY_INLINE Vector join(Vector& top, Vector sum, const float*, int64_t) const {
    // The running maximum comes second: x86 returns it when the new logit is NaN, which the exponential will show.
    top = hn::Max(sum, top);
    return sum;
  }
  HWY_INLINE void close(Vector top, int64_t column) const { hn::StoreU(top, Lanes(), maximum + column); }
};

}  // namespace store

/// sum += a * b. In assembly on x86, where the compiler would otherwise rotate the accumulators of an unrolled loop
/// through further registers.
HWY_INLINE void add_product(Vector a, Vector b, Vector& sum) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  auto raw = sum.raw;
  asm("vfmadd231ps %2, %1, %0" : "+v"(raw) : "v"(a.raw), "v"(b.raw));
  sum = Vector{raw};
#else
  sum = hn::MulAdd(a, b, sum);
#endif
}

/// One step along k for the columns of accumulators [kFirst, kFirst + kCount). `a_high` is row 4 of A.
template <int R, int V, int kFirst = 0, int kCount = V>
HWY_INLINE void add_products(const float* HWY_RESTRICT a, const float* HWY_RESTRICT a_high, ptrdiff_t a_row,
                             const float* HWY_RESTRICT b, Vector (&sum)[R][V]) {
  const Lanes d;
  Vector columns[kCount];
  HWY_UNROLL(4) for (int v = 0; v < kCount; ++v) columns[v] = hn::LoadU(d, b + (kFirst + v) * kLanes);
  HWY_UNROLL(8) for (int r = 0; r < R; ++r) {
    const Vector scalar = hn::Set(d, r < 4 ? a[r * a_row] : a_high[(r - 4) * a_row]);
    HWY_UNROLL(4) for (int v = 0; v < kCount; ++v) add_product(scalar, columns[v], sum[r][kFirst + v]);
  }
}

template <int R, int V, class Store>
HWY_INLINE void start_sums(const Store& store, int64_t column, Vector (&sum)[R][V]) {
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
    const Vector start = store.start(column + v * kLanes);
    HWY_UNROLL(8) for (int r = 0; r < R; ++r) sum[r][v] = start;
  }
}

template <int R, int V, class Store>
HWY_INLINE void store_sums(const Store& store, int64_t row, int64_t column, const Vector (&sum)[R][V],
                           float* HWY_RESTRICT c, ptrdiff_t ldc) {
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
    auto state = store.open(column + v * kLanes, row);
    HWY_UNROLL(8) for (int r = 0; r < R; ++r) {
      float* HWY_RESTRICT to = c + r * ldc + v * kLanes;
      hn::StoreU(store.join(state, sum[r][v], to, row + r), Lanes(), to);
    }
    store.close(state, column + v * kLanes);
  }
}

/// sum += A B for a register tile of R x V accumulators; of A^T B when kTransposed, with A's rows along the depth.
template <int R, int V, bool kTransposed>
HWY_INLINE void accumulate(const float* HWY_RESTRICT a, ptrdiff_t lda, const float* HWY_RESTRICT b, ptrdiff_t ldb,
                           int64_t depth, Vector (&sum)[R][V]) {
  const ptrdiff_t a_row = kTransposed ? 1 : lda, a_step = kTransposed ? lda : 1;
  // A second base, so that two bases and two multiples of the stride address all eight rows.
  const float* a_high = forget_origin(a + 4 * a_row);
  for (int64_t pairs = depth / 2; pairs > 0; --pairs) {
    add_products<R, V>(a, a_high, a_row, b, sum);
    add_products<R, V>(a + a_step, a_high + a_step, a_row, b + ldb, sum);
    a += 2 * a_step;
    a_high += 2 * a_step;
    b += 2 * ldb;
  }
  if (depth % 2 != 0) add_products<R, V>(a, a_high, a_row, b, sum);
}

template <int R, int V, bool kTransposed, class Store>
HWY_INLINE void gemm_register_tile(const float* HWY_RESTRICT a, ptrdiff_t lda, const float* HWY_RESTRICT b,
                                   ptrdiff_t ldb, float* HWY_RESTRICT c, ptrdiff_t ldc, int64_t depth, int64_t row,
                                   int64_t column, const Store& store) {
  store.begin();
  Vector sum[R][V];
  start_sums(store, column, sum);
  accumulate<R, V, kTransposed>(a, lda, b, ldb, depth, sum);
  store_sums(store, row, column, sum, c, ldc);
}

template <int V, bool kTransposed, class Store>
HWY_NOINLINE void gemm_columns(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                               int64_t first_row, int64_t rows, int64_t depth, int64_t column, const Store& store) {
  const ptrdiff_t a_row = kTransposed ? 1 : lda;
  b += column;
  c += column;
  int64_t r = first_row;
  for (; r + kTileRows <= rows; r += kTileRows) {
    gemm_register_tile<kTileRows, V, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, r, column,
                                                  store);
  }
  if constexpr (kTileRows > 4) {
    if (r + 4 <= rows) {
      gemm_register_tile<4, V, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, r, column, store);
      r += 4;
    }
  }
  if (r + 2 <= rows) {
    gemm_register_tile<2, V, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, r, column, store);
    r += 2;
  }
  if (r < rows)
    gemm_register_tile<1, V, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, r, column, store);
}

/// Rows [first_row, rows) of C [rows][vectors * kLanes] from A [rows][depth] and B [depth][vectors * kLanes].
template <bool kTransposed, class Store>
HWY_INLINE void gemm(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                     int64_t first_row, int64_t rows, int64_t vectors, int64_t depth, const Store& store) {
  for (int64_t v = 0; v < vectors;) {
    const int64_t left = vectors - v;
    // Four vectors are two pairs: a single column of accumulators cannot hide the latency of its products.
    const int64_t take = left == 4 ? 2 : left < kTileVectors ? left : kTileVectors;
    if (take == 3) {
      gemm_columns<3, kTransposed>(a, lda, b, ldb, c, ldc, first_row, rows, depth, v * kLanes, store);
    } else if (take == 2) {
      gemm_columns<2, kTransposed>(a, lda, b, ldb, c, ldc, first_row, rows, depth, v * kLanes, store);
    } else {
      gemm_columns<1, kTransposed>(a, lda, b, ldb, c, ldc, first_row, rows, depth, v * kLanes, store);
    }
    v += take;
  }
}

template <class Store>
HWY_INLINE void gemm_nn(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                        int64_t rows, int64_t vectors, int64_t depth, const Store& store) {
  gemm<false>(a, lda, b, ldb, c, ldc, 0, rows, vectors, depth, store);
}

template <class Store>
HWY_INLINE void gemm_tn(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                        int64_t rows, int64_t vectors, int64_t depth, const Store& store) {
  gemm<true>(a, lda, b, ldb, c, ldc, 0, rows, vectors, depth, store);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
