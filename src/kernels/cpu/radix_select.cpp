#include "kernels/cpu/radix_select.h"

#include <bit>
#include <cmath>

namespace heed::kernels {
namespace {

float weight_of(uint32_t order) { return std::bit_cast<float>(order & 0x7FFFFFFFu); }

}  // namespace

int64_t list_largest(const float* row, int64_t length, const Forced& forced, int64_t free, const RadixScratch& s) {
  int64_t taken = 0;
  for (int64_t i = 0; i < forced.first; ++i) s.list[taken++] = static_cast<int32_t>(i);
  const int64_t begin = forced.first, count = forced.last - forced.first;
  if (free == count) {
    for (int64_t i = begin; i < forced.last; ++i) s.list[taken++] = static_cast<int32_t>(i);
  } else if (free > 0) {
    order_scores(row + begin, count, false, s.order);
    // The free-th largest: digit by digit, in the one bucket that it must lie in.
    const uint32_t* left = s.order;
    int64_t left_count = count, ties = free;
    uint32_t threshold = 0;
    for (int digit = 0; digit < RadixScratch::kDigits; ++digit) {
      const int shift = RadixScratch::kShift[digit];
      const uint32_t mask = RadixScratch::kMask[digit];
      std::fill_n(s.count, mask + 1, int64_t{0});
      for (int64_t i = 0; i < left_count; ++i) ++s.count[left[i] >> shift & mask];
      uint32_t bucket = mask;
      while (ties > s.count[bucket]) ties -= s.count[bucket--];
      threshold |= bucket << shift;
      if (digit + 1 == RadixScratch::kDigits) break;
      left_count = keep_bucket(left, left_count, shift, mask, bucket, s.rest);
      left = s.rest;
    }
    taken += list_above(s.order, count, threshold, ties, begin, s.list + taken);
  }
  for (int64_t i = forced.last; i < length; ++i) s.list[taken++] = static_cast<int32_t>(i);
  return taken;
}

int64_t count_mass(const float* row, int64_t length, const Forced& forced, double share, const RadixScratch& s) {
  double total = 0, missing = 0;
  for (int64_t i = 0; i < length; ++i) total += weight_in_mass(row[i]);
  missing = share * total;
  for (int64_t i = 0; i < forced.first; ++i) missing -= weight_in_mass(row[i]);
  for (int64_t i = forced.last; i < length; ++i) missing -= weight_in_mass(row[i]);

  const int64_t count = forced.last - forced.first;
  order_scores(row + forced.first, count, true, s.order);
  const uint32_t* left = s.order;
  int64_t left_count = count, taken = 0;
  for (int digit = 0; digit < RadixScratch::kDigits; ++digit) {
    if (!(missing > 0)) return taken;
    const int shift = RadixScratch::kShift[digit];
    const uint32_t mask = RadixScratch::kMask[digit];
    std::fill_n(s.count, mask + 1, int64_t{0});
    std::fill_n(s.mass, mask + 1, 0.0);
    for (int64_t i = 0; i < left_count; ++i) {
      const uint32_t bucket = left[i] >> shift & mask;
      ++s.count[bucket];
      s.mass[bucket] += weight_of(left[i]);
    }
    // Where rounding leaves something missing below the last weight there is nothing more to take.
    int64_t bucket = mask;
    while (bucket >= 0 && s.mass[bucket] < missing) {
      taken += s.mass[bucket] > 0 ? s.count[bucket] : 0;
      missing -= s.mass[bucket--];
    }
    if (bucket < 0) return taken;
    if (digit + 1 == RadixScratch::kDigits) {
      // Only equal weights are left.
      const double needed = std::ceil(missing * static_cast<double>(s.count[bucket]) / s.mass[bucket]);
      // An infinite weight is as much as infinitely much: their quotient says nothing.
      return taken + (needed > 1 ? std::min(static_cast<int64_t>(std::min(needed, 1e18)), s.count[bucket]) : 1);
    }
    left_count = keep_bucket(left, left_count, shift, mask, static_cast<uint32_t>(bucket), s.rest);
    left = s.rest;
  }
  return taken;
}

}  // namespace heed::kernels
