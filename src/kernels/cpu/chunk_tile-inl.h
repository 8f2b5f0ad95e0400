// Products of the chunk engines: sums of several products in one register tile, and those of lower triangles.
#if defined(HEED_KERNELS_CPU_CHUNK_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_CHUNK_TILE_INL_H_
#undef HEED_KERNELS_CPU_CHUNK_TILE_INL_H_
#else
#define HEED_KERNELS_CPU_CHUNK_TILE_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/gemm_tile-inl.h"

// Of a lambda whose register tile would go through memory if it were called.
#ifndef HEED_ALWAYS_INLINE
#define HEED_ALWAYS_INLINE __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

namespace store {

/// C = (A B) * weights, and 0 where the weight is, whatever the product: pairs whose later token comes first.
struct Weigh : Overwrite {
  const float* weights;
  ptrdiff_t stride;
  Weigh(const float* weights, ptrdiff_t stride) : weights(weights), stride(stride) {}
  HWY_INLINE const float* open(int64_t column, int64_t) const { return weights + column; }
  HWY_INLINE Vector join(const float* at, Vector sum, const float*, int64_t row) const {
    const Vector weight = hn::LoadU(Lanes(), at + row * stride);
    return hn::IfThenElseZero(hn::Ne(weight, hn::Zero(Lanes())), hn::Mul(sum, weight));
  }
  HWY_INLINE void close(const float*, int64_t) const {}
};

/// C[row] = factor[row] * C[row] + A B
struct RescaleRowsAdd : Overwrite {
  const float* factor;
  explicit RescaleRowsAdd(const float* factor) : factor(factor) {}
  HWY_INLINE Vector join(Nothing&, Vector sum, const float* c, int64_t row) const {
    return hn::MulAdd(hn::LoadU(Lanes(), c), hn::Set(Lanes(), factor[row]), sum);
  }
};

}  // namespace store

// With 32 registers, tiles of four vectors take fewer rows.
constexpr int kMostVectors = kTileRows == 8 ? 4 : kTileVectors;
template <int V>
constexpr int kRowsOf = V == 4 ? 4 : kTileRows;

/// Calls products(row, column, sum) for the register tiles of C [rows][vectors * kLanes], columns first, rows of a
/// column ascending, and stores the sums. No tile has more than `most_rows` rows.
template <int V, class Products, class Store>
HWY_NOINLINE void tile_columns(float* c, ptrdiff_t ldc, int64_t rows, int64_t column, const Products& products,
                               const Store& store, int64_t most_rows) {
  c += column;
  int64_t r = 0;
  const auto tile = [&]<int R>() HEED_ALWAYS_INLINE {
    Vector sum[R][V];
    start_sums(store, column, sum);
    products(r, column, sum);
    store_sums(store, r, column, sum, c + r * ldc, ldc);
    r += R;
  };
  while (most_rows >= kRowsOf<V> && r + kRowsOf<V> <= rows) tile.template operator()<kRowsOf<V>>();
  if constexpr (kRowsOf < V >> 4) {
    while (most_rows >= 4 && r + 4 <= rows) tile.template operator()<4>();
  }
  while (most_rows >= 2 && r + 2 <= rows) tile.template operator()<2>();
  while (r < rows) tile.template operator()<1>();
}

template <class Products, class Store>
HWY_INLINE void for_tiles(float* c, ptrdiff_t ldc, int64_t rows, int64_t vectors, const Products& products,
                          const Store& store, int64_t most_rows = kTileRows) {
  for (int64_t v = 0; v < vectors;) {
    const int64_t left = vectors - v;
    // A single vector cannot hide the latency of its products.
    const int64_t take = left == 4 || left >= 7 ? (kMostVectors == 4 ? 4
                                                   : left == 4       ? 2
                                                                     : 3)
                                                : std::min<int64_t>(left, 3);
    if (take == 4) {
      if constexpr (kMostVectors == 4) tile_columns<4>(c, ldc, rows, v * kLanes, products, store, most_rows);
    } else if (take == 3) {
      tile_columns<3>(c, ldc, rows, v * kLanes, products, store, most_rows);
    } else if (take == 2) {
      tile_columns<2>(c, ldc, rows, v * kLanes, products, store, most_rows);
    } else {
      tile_columns<1>(c, ldc, rows, v * kLanes, products, store, most_rows);
    }
    v += take;
  }
}

/// Adds A B to a register tile; A^T B, A given from the column of the tile's first row.
template <int R, int V>
HWY_INLINE void add_rows(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, int64_t depth,
                         Vector (&sum)[R][V]) {
  accumulate<R, V, false>(a, lda, b, ldb, depth, sum);
}
template <int R, int V>
HWY_INLINE void add_columns(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, int64_t depth,
                            Vector (&sum)[R][V]) {
  accumulate<R, V, true>(a, lda, b, ldb, depth, sum);
}

/// sum[r] *= factors[r]
template <int R, int V>
HWY_INLINE void scale_tile(const float* factors, Vector (&sum)[R][V]) {
  HWY_UNROLL(8) for (int r = 0; r < R; ++r) {
    const Vector factor = hn::Set(Lanes(), factors[r]);
    HWY_UNROLL(4) for (int v = 0; v < V; ++v) sum[r][v] = hn::Mul(sum[r][v], factor);
  }
}

/// C [rows][vectors * kLanes] from A [rows][depth] and B.
template <class Store>
HWY_INLINE void multiply_rows(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                              int64_t rows, int64_t vectors, int64_t depth, const Store& store) {
  for_tiles(
      c, ldc, rows, vectors,
      [&](int64_t row, int64_t column, auto& sum)
          HEED_ALWAYS_INLINE { add_rows(a + row * lda, lda, b + column, ldb, depth, sum); },
      store);
}

/// C [rows][vectors * kLanes] from A [depth][rows], turned, and B.
template <class Store>
HWY_INLINE void multiply_columns(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                                 int64_t rows, int64_t vectors, int64_t depth, const Store& store) {
  for_tiles(
      c, ldc, rows, vectors,
      [&](int64_t row, int64_t column, auto& sum)
          HEED_ALWAYS_INLINE { add_columns(a + row, lda, b + column, ldb, depth, sum); },
      store);
}

/// Rows of a lower triangle that are computed together, as far as the last of them reaches: whole vectors and whole
/// register tiles.
constexpr int64_t kTriangleRows = kLanes > kTileRows ? kLanes : kTileRows;

/// C [n][n] = (A B) * weights for A [n][depth] and B [depth][n padded], where weights are 0 above the diagonal. What a
/// tile that crosses into the next kTriangleRows reads is 0; columns beyond are not written.
HWY_INLINE void lower_products(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, int64_t n, int64_t depth,
                               const float* weights, ptrdiff_t stride, float* c, ptrdiff_t ldc) {
  for (int64_t r = 0; r < n; r += kTriangleRows) {
    const int64_t rows = std::min(kTriangleRows, n - r);
    multiply_rows(a + r * lda, lda, b, ldb, c + r * ldc, ldc, rows, (r + rows + kLanes - 1) / kLanes, depth,
                  store::Weigh(weights + r * stride, stride));
    const int64_t next = round_up(r + rows, kLanes);
    for (int64_t i = r; next < n && i < r + rows; ++i) hn::StoreU(hn::Zero(Lanes()), Lanes(), c + i * ldc + next);
  }
}

/// Adds rows [row, row + R) of L B to a register tile, L lower triangular [n][n].
template <int R, int V>
HWY_INLINE void add_lower(const float* l, ptrdiff_t ldl, const float* b, ptrdiff_t ldb, int64_t row,
                          Vector (&sum)[R][V]) {
  accumulate<R, V, false>(l + row * ldl, ldl, b, ldb, row + R, sum);
}

/// Adds rows [row, row + R) of L^T B, L lower triangular [n][n].
template <int R, int V>
HWY_INLINE void add_lower_transposed(const float* l, ptrdiff_t ldl, const float* b, ptrdiff_t ldb, int64_t row,
                                     int64_t n, Vector (&sum)[R][V]) {
  accumulate<R, V, true>(l + row * ldl + row, ldl, b + row * ldb, ldb, n - row, sum);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
