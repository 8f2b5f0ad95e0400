// What happens to one row of decode logits between the product and the weights, over the slots of a step.
#if defined(HEED_KERNELS_CPU_DECODE_LOGITS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_LOGITS_INL_H_
#undef HEED_KERNELS_CPU_DECODE_LOGITS_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_LOGITS_INL_H_
#endif

#include <cmath>

#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

// Rows of logits are padded to whole vectors: what stands behind `count` may be overwritten with anything.

/// x * factor[j] + offset[j] * shift: the scale (and zero point) of each slot. `offset` may be null.
HWY_INLINE void scale_slots(float* HWY_RESTRICT x, const float* HWY_RESTRICT factor, const float* HWY_RESTRICT offset,
                            float shift, int64_t count) {
  const Lanes d;
  for (int64_t j = 0; j < count; j += kLanes) {
    Vector s = hn::Mul(hn::Load(d, x + j), hn::Load(d, factor + j));
    if (offset != nullptr) s = hn::MulAdd(hn::Load(d, offset + j), hn::Set(d, shift), s);
    hn::Store(s, d, x + j);
  }
}

HWY_INLINE void soft_cap(float* x, double cap, int64_t count) {
  const Lanes d;
  const Vector inverse = hn::Set(d, static_cast<float>(1 / cap)), c = hn::Set(d, static_cast<float>(cap));
  for (int64_t j = 0; j < count; j += kLanes) {
    hn::Store(hn::Mul(c, tanh_of(hn::Mul(hn::Load(d, x + j), inverse))), d, x + j);
  }
}

/// x - slope * |query - position[j]|.
HWY_INLINE void add_alibi(float* HWY_RESTRICT x, float slope, float query, const float* HWY_RESTRICT position,
                          int64_t count) {
  const Lanes d;
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vector distance = hn::Abs(hn::Sub(hn::Set(d, query), hn::Load(d, position + j)));
    hn::Store(hn::NegMulAdd(hn::Set(d, slope), distance, hn::Load(d, x + j)), d, x + j);
  }
}

/// The largest of the first `count`, -inf when there is none. A NaN is dropped or returned: the weights show it anyway.
HWY_INLINE float pad_and_maximize(float* x, int64_t count) {
  const Lanes d;
  for (int64_t j = count; j < round_up(count, kLanes); ++j) x[j] = -INFINITY;
  Vector top = hn::Set(d, -INFINITY);
  for (int64_t j = 0; j < count; j += kLanes) top = hn::Max(hn::Load(d, x + j), top);
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

/// x = exp(x - top); returns the sum.
HWY_INLINE float exponentiate_row(float* x, float top, int64_t count) {
  const Lanes d;
  // With nothing above -inf the shift only has to keep the difference from being NaN.
  const Vector shift = hn::Set(d, top == -INFINITY ? 0.0f : top), unit = hn::Set(d, kLog2E);
  Vector sum = hn::Zero(d);
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vector weight = exp2_of(hn::Mul(hn::Sub(hn::Load(d, x + j), shift), unit));
    sum = hn::Add(sum, weight);
    hn::Store(weight, d, x + j);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

/// sum[j] += exp(x[j] - top) * factor.
HWY_INLINE void add_weights(const float* HWY_RESTRICT x, float top, float factor, int64_t count,
                            float* HWY_RESTRICT sum) {
  const Lanes d;
  const Vector shift = hn::Set(d, top == -INFINITY ? 0.0f : top), unit = hn::Set(d, kLog2E);
  const auto weights = [&](Vector logit) HWY_ATTR {
    return hn::Mul(hn::Set(d, factor), exp2_of(hn::Mul(hn::Sub(logit, shift), unit)));
  };
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, sum + j), weights(hn::LoadU(d, x + j))), d, sum + j);
  }
  if (j == count) return;
  HWY_ALIGN float last[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) last[lane] = j + lane < count ? x[j + lane] : -INFINITY;
  hn::Store(weights(hn::Load(d, last)), d, last);
  for (int64_t lane = 0; j + lane < count; ++lane) sum[j + lane] += last[lane];
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
