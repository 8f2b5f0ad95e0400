// The two products of decode, lanes over the head dimension of keys and values as they are stored. A key or value row
// is converted once for a whole block of query rows.
#if defined(HEED_KERNELS_CPU_DECODE_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_PRODUCTS_INL_H_
#undef HEED_KERNELS_CPU_DECODE_PRODUCTS_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_PRODUCTS_INL_H_
#endif

#include <cstring>
#include <type_traits>

#include "kernels/cpu/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

// Accumulators of a register tile: half of the registers, so that operands and temporaries fit beside them.
constexpr int kSums = kTileRows == 8 ? 16 : 8;
static_assert(kSums % kLanes == 0 && kLanes <= 16);

/// Rows to touch ahead of their use, `lines` cache lines of each from byte `begin` on.
struct Ahead {
  static constexpr int64_t kNarrow = 2;  ///< lines of a row, of which a step leaves room for the current one

  const char* const* rows = nullptr;
  int64_t count = 0, begin = 0, lines = 0;

  HWY_INLINE void touch(int64_t r) const {
    if (r >= count) return;
    const char* at = rows[r] + begin;
    // Wide rows go into the second level: a step of them would drive the current one out of the first.
    if (lines <= kNarrow) {
      for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(at + 64 * line, 0, 3);
    } else {
      for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(at + 64 * line, 0, 2);
    }
  }
};

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE Vector sum_each(const Vector* sums) { return sums[0]; }
#else
/// Every 128-bit block b of the result holds the sums of block b of the four vectors.
HWY_INLINE Vector sum_blocks(Vector a0, Vector a1, Vector a2, Vector a3) {
  const Lanes d;
  const hn::RepartitionToWide<Words> pairs;
  const Vector a = hn::Add(hn::InterleaveLower(d, a0, a1), hn::InterleaveUpper(d, a0, a1));
  const Vector b = hn::Add(hn::InterleaveLower(d, a2, a3), hn::InterleaveUpper(d, a2, a3));
  const auto wide_a = hn::BitCast(pairs, a), wide_b = hn::BitCast(pairs, b);
  return hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, wide_a, wide_b)),
                 hn::BitCast(d, hn::InterleaveUpper(pairs, wide_a, wide_b)));
}

/// Lane l of the result is the sum of all lanes of sums[l]: a transposing tree, far cheaper than kLanes horizontal
/// sums.
HWY_INLINE Vector sum_each(const Vector* sums) {
  const Lanes d;
  const Vector x = sum_blocks(sums[0], sums[1], sums[2], sums[3]);
  if constexpr (kLanes == 4) {
    return x;
  } else {
    const Vector y = sum_blocks(sums[4], sums[5], sums[6], sums[7]);
    if constexpr (kLanes == 8) {
      return hn::Add(hn::ConcatLowerLower(d, y, x), hn::ConcatUpperUpper(d, y, x));
    } else {
      const Vector z = sum_blocks(sums[8], sums[9], sums[10], sums[11]);
      const Vector w = sum_blocks(sums[12], sums[13], sums[14], sums[15]);
      const Vector xz = hn::Add(hn::ConcatLowerLower(d, z, x), hn::ConcatUpperUpper(d, z, x));
      const Vector yw = hn::Add(hn::ConcatLowerLower(d, w, y), hn::ConcatUpperUpper(d, w, y));
      return hn::Add(hn::OddEvenBlocks(yw, xz), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(xz, yw)));
    }
  }
}
#endif

/// logits[r][j] = <q_r, key_j> for kRows rows and `count` keys; up to kSums - 1 further logits of a row are
/// overwritten. `keys` has as many further entries, which must be readable.
template <class T, int kRows>
HWY_NOINLINE void key_products(const float* HWY_RESTRICT q, int64_t q_stride, const char* const* keys, int64_t count,
                               int64_t vectors, float* HWY_RESTRICT logits, int64_t logit_stride, const Ahead& ahead) {
  constexpr int kKeys = kSums / kRows;
  const Lanes d;
  for (int64_t j = 0; j < count; j += kKeys) {
    const T* key[kKeys];
    HWY_UNROLL(16) for (int k = 0; k < kKeys; ++k) {
      key[k] = reinterpret_cast<const T*>(keys[j + k]);
      ahead.touch(j + k);
    }
    Vector sum[kSums];
    HWY_UNROLL(16) for (int s = 0; s < kSums; ++s) sum[s] = hn::Zero(d);
    for (int64_t v = 0; v < vectors * kLanes; v += kLanes) {
      Vector converted[kKeys];
      HWY_UNROLL(16) for (int k = 0; k < kKeys; ++k) converted[k] = load_vector(key[k] + v);
      HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
        const Vector query = hn::Load(d, q + r * q_stride + v);
        HWY_UNROLL(16) for (int k = 0; k < kKeys; ++k) {
          sum[r * kKeys + k] = hn::MulAdd(query, converted[k], sum[r * kKeys + k]);
        }
      }
    }
    HWY_ALIGN float totals[kSums];
    HWY_UNROLL(4) for (int s = 0; s < kSums; s += static_cast<int>(kLanes)) hn::Store(sum_each(sum + s), d, totals + s);
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      std::memcpy(logits + r * logit_stride + j, totals + r * kKeys, kKeys * sizeof(float));
    }
  }
}

/// out[r] = out[r] * factor[r] + sum_j weights[r][j] * value_j for kRows rows and kVectors vectors of columns.
template <class T, int kRows, int kVectors>
HWY_INLINE void add_values(const float* HWY_RESTRICT weights, int64_t weight_stride, const char* const* values,
                           int64_t count, int64_t column, const float* factor, float* HWY_RESTRICT out,
                           int64_t out_stride, const Ahead& ahead) {
  const Lanes d;
  Vector sum[kRows][kVectors];
  HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8) for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(d);
  }
  for (int64_t j = 0; j < count; ++j) {
    const T* value = reinterpret_cast<const T*>(values[j]) + column;
    ahead.touch(j);
    Vector converted[kVectors];
    HWY_UNROLL(8) for (int v = 0; v < kVectors; ++v) converted[v] = load_vector(value + v * kLanes);
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      const Vector weight = hn::Set(d, weights[r * weight_stride + j]);
      HWY_UNROLL(8) for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(weight, converted[v], sum[r][v]);
    }
  }
  HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8) for (int v = 0; v < kVectors; ++v) {
      float* to = out + r * out_stride + column + v * kLanes;
      hn::Store(hn::MulAdd(hn::Load(d, to), hn::Set(d, factor[r]), sum[r][v]), d, to);
    }
  }
}

/// add_values over all `vectors` vectors of columns. `ahead` covers whole rows; each part of the columns touches its
/// share.
template <class T, int kRows>
HWY_NOINLINE void value_products(const float* weights, int64_t weight_stride, const char* const* values, int64_t count,
                                 int64_t vectors, const float* factor, float* out, int64_t out_stride,
                                 const Ahead& ahead) {
  int64_t v = 0;
  const auto part = [&](auto width) {
    constexpr int kVectors = decltype(width)::value;
    if constexpr (kVectors == 1 || kVectors * kRows <= kSums) {
      while (v + kVectors <= vectors) {
        const int64_t first = v * ahead.lines / vectors, last = (v + kVectors) * ahead.lines / vectors;
        const Ahead share{ahead.rows, last > first ? ahead.count : 0, ahead.begin + 64 * first, last - first};
        add_values<T, kRows, kVectors>(weights, weight_stride, values, count, v * kLanes, factor, out, out_stride,
                                       share);
        v += kVectors;
      }
    }
  };
  part(std::integral_constant<int, 8>());
  part(std::integral_constant<int, 4>());
  part(std::integral_constant<int, 2>());
  part(std::integral_constant<int, 1>());
}

using KeyProducts = void (*)(const float*, int64_t, const char* const*, int64_t, int64_t, float*, int64_t,
                             const Ahead&);
using ValueProducts = void (*)(const float*, int64_t, const char* const*, int64_t, int64_t, const float*, float*,
                               int64_t, const Ahead&);

/// The largest power of two of rows that a tile takes of the `left` rows, without computing too many for nothing.
inline int64_t block_rows(int64_t left) {
  int64_t block = 1;
  while (block < left && block < kSums) block *= 2;
  return block - left > block / 4 ? block / 2 : block;
}

struct RowKernels {
  KeyProducts keys;
  ValueProducts values;
};

template <class T>
RowKernels row_kernels(int64_t rows) {
  if (rows == 1) return {key_products<T, 1>, value_products<T, 1>};
  if (rows == 2) return {key_products<T, 2>, value_products<T, 2>};
  if (rows == 4) return {key_products<T, 4>, value_products<T, 4>};
  if (rows == 8) return {key_products<T, 8>, value_products<T, 8>};
  return {key_products<T, kSums>, value_products<T, kSums>};
}

inline RowKernels row_kernels(DType dtype, int64_t rows) {
  switch (dtype) {
    case DType::f16:
      return row_kernels<Half>(rows);
    case DType::bf16:
      return row_kernels<BFloat>(rows);
    case DType::i8:
      return row_kernels<int8_t>(rows);
    default:
      return row_kernels<float>(rows);
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
