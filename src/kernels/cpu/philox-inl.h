// Dropout's keep decisions for a vector of queries and four keys at once.
#if defined(HEED_KERNELS_CPU_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_PHILOX_INL_H_
#undef HEED_KERNELS_CPU_PHILOX_INL_H_
#else
#define HEED_KERNELS_CPU_PHILOX_INL_H_
#endif

#include "kernels/cpu/lanes-inl.h"
#include "kernels/philox.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
/// Upper half of the 64-bit product of each lane with `factor`.
HWY_INLINE hn::Vec<Words> multiply_high(hn::Vec<Words> a, hn::Vec<Words> factor) {
  const Words du;
  const hn::RepartitionToWide<Words> dw;
  const auto even = hn::ShiftRight<32>(hn::MulEven(a, factor));
  const auto odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(dw, a))), factor);
  return hn::OddEven(hn::BitCast(du, odd), hn::BitCast(du, even));
}
#endif

/// words[c] holds, for each lane, the word of query i0 + lane and key 4 * group + c.
HWY_INLINE void philox_words(uint64_t seed, int64_t i0, int64_t group, int64_t head, int64_t batch,
                             uint32_t* HWY_RESTRICT words) {
#if HWY_TARGET == HWY_SCALAR
  const auto four = philox(seed, {static_cast<uint32_t>(i0), static_cast<uint32_t>(group), static_cast<uint32_t>(head),
                                  static_cast<uint32_t>(batch)});
  for (int c = 0; c < 4; ++c) words[c] = four[c];
#else
  const Words du;
  auto c0 = hn::BitCast(du, count_from(i0)), c1 = hn::Set(du, static_cast<uint32_t>(group));
  auto c2 = hn::Set(du, static_cast<uint32_t>(head)), c3 = hn::Set(du, static_cast<uint32_t>(batch));
  const auto multiplier0 = hn::Set(du, kPhiloxMultiplier0), multiplier1 = hn::Set(du, kPhiloxMultiplier1);
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const auto high0 = multiply_high(c0, multiplier0), low0 = hn::Mul(c0, multiplier0);
    const auto high1 = multiply_high(c2, multiplier1), low1 = hn::Mul(c2, multiplier1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(du, key0));
    c1 = low1;
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(du, key1));
    c3 = low0;
    key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1;
  }
  hn::StoreU(c0, du, words);
  hn::StoreU(c1, du, words + kLanes);
  hn::StoreU(c2, du, words + 2 * kLanes);
  hn::StoreU(c3, du, words + 3 * kLanes);
#endif
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
