// The vector type of the tile engine. Included once per instruction set.
#if defined(HEED_KERNELS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_LANES_INL_H_
#undef HEED_KERNELS_LANES_INL_H_
#else
#define HEED_KERNELS_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes = hn::ScalableTag<float>;
using Words = hn::RebindToUnsigned<Lanes>;
using Integers = hn::RebindToSigned<Lanes>;
using Vector = hn::Vec<Lanes>;
using IntegerVector = hn::Vec<Integers>;
using LaneMask = hn::Mask<Lanes>;

constexpr int64_t kLanes = HWY_LANES(float);

/// first, first + 1, ... (Highway's Iota writes and reads back an array each time.)
HWY_INLINE IntegerVector count_from(int64_t first) {
  alignas(64) static constexpr int32_t kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  static_assert(kLanes <= 16);
  return hn::Add(hn::LoadU(Integers(), kCount), hn::Set(Integers(), static_cast<int32_t>(first)));
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
