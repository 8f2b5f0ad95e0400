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
  const auto rows = hn::Min(hn::Iota(di, static_cast<int32_t>(first)), hn::Set(di, static_cast<int32_t>(last)));
  return hn::Mul(rows, hn::Set(di, static_cast<int32_t>(stride)));
}

/// to[c][r] = factor * from[r][c] for r < rows, 0 for the other lanes of `width` (a multiple of kLanes).
HWY_INLINE void pack_transposed(const float* from, int64_t stride, int64_t rows, int64_t columns, float factor,
                                float* to, int64_t width) {
  const Lanes d;
  const Vector f = hn::Set(d, factor);
  for (int64_t v = 0; v < width; v += kLanes) {
    const auto indices = row_indices(v, rows - 1, stride);
    const auto inside = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(rows - v, 0, kLanes)));
    for (int64_t c = 0; c < columns; ++c) {
      const Vector column = hn::GatherIndex(d, from + c, indices);
      hn::StoreU(hn::IfThenElseZero(inside, hn::Mul(f, column)), d, to + c * width + v);
    }
  }
}

/// to[c] = from[c][row] for c < columns, in whole vectors (the tail is padded with what the last column holds).
HWY_INLINE void unpack_row(const float* from, int64_t width, int64_t row, int64_t columns, float* to) {
  const Lanes d;
  for (int64_t c = 0; c < columns; c += kLanes) {
    const auto indices = row_indices(0, std::min<int64_t>(kLanes, columns - c) - 1, width);
    hn::StoreU(hn::GatherIndex(d, from + c * width + row, indices), d, to + c);
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
