// Random numbers as a function of a counter: sample i of a task does not depend on which samples were drawn before it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace heed::tasks {

enum class Split : uint8_t { train, valid, test };
std::string_view name_of(Split split);

/// A 64-bit hash of bytes: FNV-1a, then a finaliser that spreads it over all bits. The same on every machine.
uint64_t hash64(std::string_view bytes);

/// The key of a split of a task; a `seed` other than 0 gives another family of samples.
uint64_t stream_key(std::string_view task, Split split, uint64_t seed = 0);

/// Words of Philox4x32-10 (Salmon et al., 2011) with key `key` and counter (block, block >> 32, sample, sample >> 32).
/// Integers and what is made of them are the same bytes on every machine and compiler; `normal` is so up to the last
/// bits of the machine's log and cos.
class Random {
 public:
  Random(uint64_t key, uint64_t sample) : key_(key), sample_(sample) {}

  uint32_t word();
  uint64_t word64();
  /// Uniform in [0, n), every value equally likely; n > 0.
  uint64_t below(uint64_t n);
  /// Uniform in [low, high], both included.
  int64_t between(int64_t low, int64_t high);
  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform();
  /// Standard normal (Box and Muller); one number takes two uniform ones.
  double normal();

  template <class T>
  const T& choose(const std::vector<T>& items) {
    return items[below(items.size())];
  }
  template <class Range>
  void shuffle(Range& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }
  /// `count` distinct numbers of [0, n), in random order.
  std::vector<int64_t> distinct(int64_t count, int64_t n);

 private:
  uint64_t key_, sample_, block_ = 0;
  std::array<uint32_t, 4> words_{};
  int left_ = 0;
};

}  // namespace heed::tasks
