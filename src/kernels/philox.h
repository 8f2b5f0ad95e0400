// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): random words as a pure function
// of a counter.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace heed::kernels {

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

inline std::array<uint32_t, 4> philox(uint64_t seed, std::array<uint32_t, 4> counter) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * counter[0],
                   product1 = uint64_t{kPhiloxMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1;
  }
  return counter;
}

/// Smallest word that is kept: a weight stays iff its word >= probability * 2^32.
inline uint32_t dropout_threshold(double probability) {
  return static_cast<uint32_t>(std::fmin(std::ceil(probability * 4294967296.0), 4294967295.0));
}

/// The keep decision of a pair, docs/semantics.md.
inline bool dropout_keeps(uint64_t seed, uint32_t threshold, int64_t b, int64_t h, int64_t i, int64_t j) {
  const auto words = philox(seed, {static_cast<uint32_t>(i), static_cast<uint32_t>(j / 4), static_cast<uint32_t>(h),
                                   static_cast<uint32_t>(b)});
  return words[j % 4] >= threshold;
}

}  // namespace heed::kernels
