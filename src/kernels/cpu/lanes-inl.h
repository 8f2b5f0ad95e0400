// The register budget of each instruction set, and how to stay inside it.
#if defined(HEED_KERNELS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_LANES_INL_H_
#undef HEED_KERNELS_CPU_LANES_INL_H_
#else
#define HEED_KERNELS_CPU_LANES_INL_H_
#endif

#include "heed/kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

// A register tile holds kTileRows x kTileVectors accumulators beside the operands: 24 of 32 registers, or 12 of 16.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 3;

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

/// The same pointer, of which the compiler does not know how it was made. A loop over columns of many rows then has one
/// pointer that moves; else it would have one for each row, more than there are registers.
template <class T>
HWY_INLINE T* forget_origin(T* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
