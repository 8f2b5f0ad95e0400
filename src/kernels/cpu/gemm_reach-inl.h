// The products of the tile engine for a panel against a tile of which each vector of queries sees a range of keys:
// what no query of a vector sees is left out, at the granularity of a vector by a few keys. Sums run over the same keys
// in the same order as in the whole product, whose other weights are 0, so a row's bits do not depend on its panel.
#if defined(HEED_KERNELS_CPU_GEMM_REACH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_GEMM_REACH_INL_H_
#undef HEED_KERNELS_CPU_GEMM_REACH_INL_H_
#else
#define HEED_KERNELS_CPU_GEMM_REACH_INL_H_
#endif

#include <algorithm>
#include <bit>

#include "kernels/cpu/gemm_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Which keys of a tile the vectors of a panel see.
class Reach {
 public:
  Reach() = default;
  /// `bits` as cover_tile writes them.
  Reach(const uint32_t* bits, int64_t keys, int64_t vectors) : vectors_(static_cast<int>(vectors)) {
    int64_t edges[2 * kTileVectors + 2] = {0, keys};
    int count = 2;
    for (int v = 0; v < vectors_; ++v) {
      for (int64_t word = 0; word * 32 < keys; ++word) {
        uint32_t seen = 0;
        for (int64_t lane = 0; lane < kLanes; ++lane) seen |= bits[(word * vectors + v) * kLanes + lane];
        if (seen == 0) continue;
        if (end_[v] == 0) begin_[v] = word * 32 + std::countr_zero(seen);
        end_[v] = std::min<int64_t>(keys, word * 32 + 32 - std::countl_zero(seen));
      }
      edges[count++] = begin_[v], edges[count++] = end_[v];
    }
    std::sort(edges, edges + count);
    for (int e = 0; e + 1 < count; ++e) {
      if (edges[e] == edges[e + 1]) continue;
      const Range range = seeing(edges[e], edges[e + 1]);
      if (range.count > 0) spans_[num_spans_++] = {edges[e], edges[e + 1], range};
    }
  }

  /// Neighbouring vectors [first, first + count), the fewest that hold all which see a key of [begin, end).
  struct Range {
    int first, count;
  };
  Range seeing(int64_t begin, int64_t end) const {
    int first = kTileVectors, last = -1;
    for (int v = 0; v < vectors_; ++v) {
      if (begin_[v] < end && end_[v] > begin) first = std::min(first, v), last = v;
    }
    return {first, last < 0 ? 0 : last - first + 1};
  }

  /// Keys [begin, end) that the same vectors see.
  struct Span {
    int64_t begin, end;
    Range range;
  };
  const Span* begin() const { return spans_; }
  const Span* end() const { return spans_ + num_spans_; }

 private:
  int vectors_ = 0, num_spans_ = 0;
  int64_t begin_[kTileVectors] = {}, end_[kTileVectors] = {};
  Span spans_[2 * kTileVectors + 1];
};

/// C [keys][vectors * kLanes] = A B where some query of a vector sees one of kTileRows keys; elsewhere C is left as it
/// is.
template <class Store>
HWY_INLINE void gemm_nn_reach(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                              int64_t keys, int64_t vectors, int64_t depth, const Reach& reach, const Store& store) {
  int64_t r = 0;
  for (; r + kTileRows <= keys; r += kTileRows) {
    const auto [first, count] = reach.seeing(r, r + kTileRows);
    const int64_t column = first * kLanes;
    const auto strip = [&]<int V>() {
      gemm_register_tile<kTileRows, V, false>(a + r * lda, lda, b + column, ldb, c + r * ldc + column, ldc, depth, r,
                                              column, store);
    };
    if (count == 3) {
      strip.template operator()<3>();
    } else if (count == 2) {
      strip.template operator()<2>();
    } else if (count == 1) {
      strip.template operator()<1>();
    }
  }
  gemm<false>(a, lda, b, ldb, c, ldc, r, keys, vectors, depth, store);
}

/// C [keys][columns] += A B for weights A [keys][queries] and B [queries][columns]; weights of vectors of queries that
/// see none of kTileRows keys are not read.
template <class Store>
HWY_INLINE void gemm_nn_of_seeing(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                                  int64_t keys, int64_t column_vectors, int64_t queries, const Reach& reach,
                                  const Store& store) {
  int64_t r = 0;
  for (; r + kTileRows <= keys; r += kTileRows) {
    const auto [first, count] = reach.seeing(r, r + kTileRows);
    const int64_t begin = first * kLanes;
    if (count == 0) continue;
    gemm_nn(a + r * lda + begin, lda, b + begin * ldb, ldb, c + r * ldc, ldc, kTileRows, column_vectors,
            std::min(count * kLanes, queries - begin), store);
  }
  gemm_nn(a + r * lda, lda, b, ldb, c + r * ldc, ldc, keys - r, column_vectors, queries, store);
}

template <int R, int V, int kFirst, int kCount>
HWY_INLINE void add_span(const float* HWY_RESTRICT a, ptrdiff_t lda, const float* HWY_RESTRICT b, ptrdiff_t ldb,
                         int64_t depth, Vector (&sum)[R][V]) {
  if constexpr (kFirst + kCount <= V) {
    const float* a_high = forget_origin(a + 4);
    for (; depth > 0; --depth) {
      add_products<R, V, kFirst, kCount>(a, a_high, 1, b, sum);
      a += lda;
      a_high += lda;
      b += ldb;
    }
  }
}

/// Rows [row, row + R) of C = A^T B over what the vectors see.
template <int R, int V, class Store>
HWY_INLINE void gemm_tn_rows(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                             int64_t row, const Reach& reach, const Store& store) {
  store.begin();
  Vector sum[R][V];
  start_sums(store, 0, sum);
  for (const Reach::Span& span : reach) {
    const float *columns = a + span.begin * lda + row, *weights = b + span.begin * ldb;
    const int64_t depth = span.end - span.begin;
    const auto [first, count] = span.range;
    if (first == 0 && count == 3) add_span<R, V, 0, 3>(columns, lda, weights, ldb, depth, sum);
    if (first == 0 && count == 2) add_span<R, V, 0, 2>(columns, lda, weights, ldb, depth, sum);
    if (first == 0 && count == 1) add_span<R, V, 0, 1>(columns, lda, weights, ldb, depth, sum);
    if (first == 1 && count == 2) add_span<R, V, 1, 2>(columns, lda, weights, ldb, depth, sum);
    if (first == 1 && count == 1) add_span<R, V, 1, 1>(columns, lda, weights, ldb, depth, sum);
    if (first == 2 && count == 1) add_span<R, V, 2, 1>(columns, lda, weights, ldb, depth, sum);
  }
  store_sums(store, row, 0, sum, c + row * ldc, ldc);
}

template <int V, class Store>
HWY_NOINLINE void gemm_tn_columns(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                                  int64_t rows, const Reach& reach, const Store& store) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) gemm_tn_rows<kTileRows, V>(a, lda, b, ldb, c, ldc, r, reach, store);
  for (; r < rows; ++r) gemm_tn_rows<1, V>(a, lda, b, ldb, c, ldc, r, reach, store);
}

/// C [rows][vectors * kLanes] (+)= A^T B for A [keys][rows] and weights B [keys][vectors * kLanes], of which those that
/// no query of a vector sees are not read. `vectors` is at most kTileVectors.
template <class Store>
HWY_INLINE void gemm_tn_reach(const float* a, ptrdiff_t lda, const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                              int64_t rows, int64_t vectors, const Reach& reach, const Store& store) {
  if (vectors == 3) {
    gemm_tn_columns<3>(a, lda, b, ldb, c, ldc, rows, reach, store);
  } else if (vectors == 2) {
    gemm_tn_columns<2>(a, lda, b, ldb, c, ldc, rows, reach, store);
  } else {
    gemm_tn_columns<1>(a, lda, b, ldb, c, ldc, rows, reach, store);
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
