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

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
