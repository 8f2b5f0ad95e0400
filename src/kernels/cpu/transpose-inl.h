// Panels: a few rows turned so that lanes run over rows, and back.
#if defined(HEED_KERNELS_CPU_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_TRANSPOSE_INL_H_
#undef HEED_KERNELS_CPU_TRANSPOSE_INL_H_
#else
#define HEED_KERNELS_CPU_TRANSPOSE_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Largest stride whose multiples by a panel's lanes fit the 32-bit indices of a gather.
constexpr int64_t kLargestGatherStride = int64_t{1} << 24;

/// Indices stride * min(lane + first, last), so that no lane reaches beyond row `last`.
HWY_INLINE hn::Vec<Integers> row_indices(int64_t first, int64_t last, int64_t stride) {
  const Integers di;
  const auto rows = hn::Min(count_from(first), hn::Set(di, static_cast<int32_t>(last)));
  return hn::Mul(rows, hn::Set(di, static_cast<int32_t>(stride)));
}

#if HWY_TARGET != HWY_SCALAR
/// Four vectors whose 128-bit blocks are 4 x 4 matrices, each transposed.
HWY_INLINE void transpose_blocks(Vector& a, Vector& b, Vector& c, Vector& e) {
  const Lanes d;
  const hn::RepartitionToWide<Lanes> dw;
  const auto low_ab = hn::BitCast(dw, hn::InterleaveLower(d, a, b)),
             high_ab = hn::BitCast(dw, hn::InterleaveUpper(d, a, b));
  const auto low_ce = hn::BitCast(dw, hn::InterleaveLower(d, c, e)),
             high_ce = hn::BitCast(dw, hn::InterleaveUpper(d, c, e));
  a = hn::BitCast(d, hn::InterleaveLower(dw, low_ab, low_ce));
  b = hn::BitCast(d, hn::InterleaveUpper(dw, low_ab, low_ce));
  c = hn::BitCast(d, hn::InterleaveLower(dw, high_ab, high_ce));
  e = hn::BitCast(d, hn::InterleaveUpper(dw, high_ab, high_ce));
}

#if HWY_TARGET == HWY_AVX3
/// m[i][j] = m[j][i]
HWY_INLINE void transpose_square(Vector (&m)[kLanes]) {
  HWY_UNROLL(4) for (int c = 0; c < 16; c += 4) transpose_blocks(m[c], m[c + 1], m[c + 2], m[c + 3]);
  HWY_UNROLL(4) for (int r = 0; r < 4; ++r) {
    const __m512 a = m[r].raw, b = m[4 + r].raw, c = m[8 + r].raw, e = m[12 + r].raw;
    const __m512 low_ab = _mm512_shuffle_f32x4(a, b, 0x44), high_ab = _mm512_shuffle_f32x4(a, b, 0xEE);
    const __m512 low_ce = _mm512_shuffle_f32x4(c, e, 0x44), high_ce = _mm512_shuffle_f32x4(c, e, 0xEE);
    m[r] = Vector{_mm512_shuffle_f32x4(low_ab, low_ce, 0x88)};
    m[4 + r] = Vector{_mm512_shuffle_f32x4(low_ab, low_ce, 0xDD)};
    m[8 + r] = Vector{_mm512_shuffle_f32x4(high_ab, high_ce, 0x88)};
    m[12 + r] = Vector{_mm512_shuffle_f32x4(high_ab, high_ce, 0xDD)};
  }
}
#endif

/// Block b holds the four floats at from + 4 * b * stride.
HWY_INLINE Vector load_blocks(const float* from, int64_t stride) {
#if HWY_TARGET == HWY_AVX3
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(from));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(from + 4 * stride), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(from + 8 * stride), 2);
  return Vector{_mm512_insertf32x4(v, _mm_loadu_ps(from + 12 * stride), 3)};
#elif HWY_TARGET == HWY_AVX2
  return Vector{_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + 4 * stride), 1)};
#else
  return hn::LoadU(Lanes(), from);
#endif
}

HWY_INLINE void store_blocks(Vector v, float* to, int64_t stride) {
#if HWY_TARGET == HWY_AVX3
  _mm_storeu_ps(to, _mm512_castps512_ps128(v.raw));
  _mm_storeu_ps(to + 4 * stride, _mm512_extractf32x4_ps(v.raw, 1));
  _mm_storeu_ps(to + 8 * stride, _mm512_extractf32x4_ps(v.raw, 2));
  _mm_storeu_ps(to + 12 * stride, _mm512_extractf32x4_ps(v.raw, 3));
#elif HWY_TARGET == HWY_AVX2
  _mm_storeu_ps(to, _mm256_castps256_ps128(v.raw));
  _mm_storeu_ps(to + 4 * stride, _mm256_extractf128_ps(v.raw, 1));
#else
  hn::StoreU(v, Lanes(), to);
#endif
}
#endif  // HWY_TARGET != HWY_SCALAR

/// to[c][r] = factor * from[r][c] for r < rows, 0 for the other lanes of `width` (a multiple of kLanes).
HWY_INLINE void pack_transposed(const float* from, int64_t stride, int64_t rows, int64_t columns, float factor,
                                float* to, int64_t width) {
  const Lanes d;
  const Vector f = hn::Set(d, factor);
  for (int64_t v = 0; v < width; v += kLanes) {
    int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
    for (; rows - v >= kLanes && c + 4 <= columns; c += 4) {
      Vector block[4];
      for (int64_t r = 0; r < 4; ++r) block[r] = load_blocks(from + (v + r) * stride + c, stride);
      transpose_blocks(block[0], block[1], block[2], block[3]);
      for (int64_t r = 0; r < 4; ++r) hn::StoreU(hn::Mul(f, block[r]), d, to + (c + r) * width + v);
    }
#endif
    const auto indices = row_indices(v, rows - 1, stride);
    const auto inside = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(rows - v, 0, kLanes)));
    for (; c < columns; ++c) {
      const Vector column = hn::GatherIndex(d, from + c, indices);
      hn::StoreU(hn::IfThenElseZero(inside, hn::Mul(f, column)), d, to + c * width + v);
    }
  }
}

/// to[r][c] = factors[r] * from[c][r] for r < rows, c < columns; nothing else is written.
HWY_INLINE void unpack_rows(const float* from, int64_t width, int64_t rows, int64_t columns, const float* factors,
                            float* to, int64_t stride) {
  for (int64_t v = 0; v < rows; v += kLanes) {
    int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
    const Lanes d;
    const Vector f = hn::LoadU(d, factors + v);
#if HWY_TARGET == HWY_AVX3
    for (; rows - v >= kLanes && c + kLanes <= columns; c += kLanes) {
      Vector square[kLanes];
      HWY_UNROLL(16) for (int e = 0; e < kLanes; ++e) {
        square[e] = hn::Mul(f, hn::LoadU(d, from + (c + e) * width + v));
      }
      transpose_square(square);
      HWY_UNROLL(16) for (int r = 0; r < kLanes; ++r) hn::StoreU(square[r], d, to + (v + r) * stride + c);
    }
#endif
    for (; rows - v >= kLanes && c + 4 <= columns; c += 4) {
      Vector block[4];
      for (int64_t r = 0; r < 4; ++r) block[r] = hn::Mul(f, hn::LoadU(d, from + (c + r) * width + v));
      transpose_blocks(block[0], block[1], block[2], block[3]);
      for (int64_t r = 0; r < 4; ++r) store_blocks(block[r], to + (v + r) * stride + c, stride);
    }
#endif
    for (int64_t r = v; r < std::min(rows, v + kLanes); ++r) {
      for (int64_t e = c; e < columns; ++e) to[r * stride + e] = factors[r] * from[e * width + r];
    }
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
