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

enum class Store {
  overwrite,
  add,          ///< C += A B
  rescale_add,  ///< C = C * factor[column] + A B
  maximum,      ///< C = A B, and factor[column] = max(factor[column], C[.][column])
};

/// One register tile of R x V accumulators. `a_row` and `a_step` are A's strides along its result rows and along k.
template <int R, int V, Store kStore, bool kTransposed>
HWY_INLINE void gemm_register_tile(const float* HWY_RESTRICT a, ptrdiff_t lda, const float* HWY_RESTRICT b,
                                   ptrdiff_t ldb, float* HWY_RESTRICT c, ptrdiff_t ldc, int64_t depth,
                                   float* HWY_RESTRICT factor) {
  const Lanes d;
  Vector sum[R][V];
  HWY_UNROLL(8) for (int r = 0; r < R; ++r) { HWY_UNROLL(4) for (int v = 0; v < V; ++v) sum[r][v] = hn::Zero(d); }
  // Constant multiples of one stride, so that the address of each broadcast is one register pair at most.
  const ptrdiff_t a_row = kTransposed ? 1 : lda, a_step = kTransposed ? lda : 1;
  for (int64_t k = 0; k < depth; ++k) {
    Vector columns[V];
    HWY_UNROLL(4) for (int v = 0; v < V; ++v) columns[v] = hn::LoadU(d, b + v * kLanes);
    HWY_UNROLL(8) for (int r = 0; r < R; ++r) {
      const Vector scalar = hn::Set(d, a[r * a_row]);
      HWY_UNROLL(4) for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(scalar, columns[v], sum[r][v]);
    }
    a += a_step;
    b += ldb;
  }
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
    Vector f = hn::Zero(d);
    if constexpr (kStore == Store::rescale_add || kStore == Store::maximum) f = hn::LoadU(d, factor + v * kLanes);
    HWY_UNROLL(8) for (int r = 0; r < R; ++r) {
      float* HWY_RESTRICT to = c + r * ldc + v * kLanes;
      Vector result = sum[r][v];
      if constexpr (kStore == Store::add) result = hn::Add(hn::LoadU(d, to), result);
      if constexpr (kStore == Store::rescale_add) result = hn::MulAdd(hn::LoadU(d, to), f, result);
      // The running maximum comes second: x86 returns it when the new logit is NaN, which the exponential will show.
      if constexpr (kStore == Store::maximum) f = hn::Max(result, f);
      hn::StoreU(result, d, to);
    }
    if constexpr (kStore == Store::maximum) hn::StoreU(f, d, factor + v * kLanes);
  }
}

template <int V, Store kStore, bool kTransposed>
HWY_NOINLINE void gemm_columns(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                               int64_t rows, int64_t depth, float* factor) {
  const ptrdiff_t a_row = kTransposed ? 1 : lda;
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    gemm_register_tile<kTileRows, V, kStore, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, factor);
  }
  if constexpr (kTileRows > 4) {
    if (r + 4 <= rows) {
      gemm_register_tile<4, V, kStore, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, factor);
      r += 4;
    }
  }
  if (r + 2 <= rows) {
    gemm_register_tile<2, V, kStore, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, factor);
    r += 2;
  }
  if (r < rows)
    gemm_register_tile<1, V, kStore, kTransposed>(a + r * a_row, lda, b, ldb, c + r * ldc, ldc, depth, factor);
}

/// C [rows][vectors * kLanes] from A [rows][depth] and B [depth][vectors * kLanes]. `factor`: one float a column, for
/// the stores that use it.
template <Store kStore, bool kTransposed>
HWY_INLINE void gemm(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                     int64_t rows, int64_t vectors, int64_t depth, float* factor) {
  for (int64_t v = 0; v < vectors;) {
    const int64_t left = vectors - v;
    float* f = factor == nullptr ? nullptr : factor + v * kLanes;
    // Four vectors are two pairs: a single column of accumulators cannot hide the latency of its products.
    const int64_t take = left == 4 ? 2 : left < kTileVectors ? left : kTileVectors;
    if (take == 3) {
      gemm_columns<3, kStore, kTransposed>(a, lda, b + v * kLanes, ldb, c + v * kLanes, ldc, rows, depth, f);
    } else if (take == 2) {
      gemm_columns<2, kStore, kTransposed>(a, lda, b + v * kLanes, ldb, c + v * kLanes, ldc, rows, depth, f);
    } else {
      gemm_columns<1, kStore, kTransposed>(a, lda, b + v * kLanes, ldb, c + v * kLanes, ldc, rows, depth, f);
    }
    v += take;
  }
}

template <Store kStore>
HWY_INLINE void gemm_nn(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                        int64_t rows, int64_t vectors, int64_t depth, float* factor = nullptr) {
  gemm<kStore, false>(a, lda, b, ldb, c, ldc, rows, vectors, depth, factor);
}

template <Store kStore>
HWY_INLINE void gemm_tn(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                        int64_t rows, int64_t vectors, int64_t depth, float* factor = nullptr) {
  gemm<kStore, true>(a, lda, b, ldb, c, ldc, rows, vectors, depth, factor);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
