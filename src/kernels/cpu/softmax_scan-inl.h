// What both directions of the softmax scan share.
#if defined(HEED_KERNELS_CPU_SOFTMAX_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_SOFTMAX_SCAN_INL_H_
#undef HEED_KERNELS_CPU_SOFTMAX_SCAN_INL_H_
#else
#define HEED_KERNELS_CPU_SOFTMAX_SCAN_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "kernels/cpu/scan_math-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_scan_task.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Tokens that are worked on between looks at memory: whole vectors on every instruction set.
constexpr int64_t kTokenBlock = 64;

/// One number a token as floats.
HWY_INLINE void read_scores(const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count, float* to) {
  with_float_type(view, [&](auto* data) {
    const auto typed = view.as<std::remove_pointer_t<decltype(data)>>();
    if (view.stride[2] == 1) return read_row(typed.row(b, h, begin), count, to, false);
    for (int64_t t = 0; t < count; ++t) to[t] = hn::GetLane(load_some(typed.row(b, h, begin + t), 1));
  });
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
