#include "heed/tasks/random.h"

#include <cmath>
#include <numbers>
#include <unordered_map>

#include "heed/error.h"
#include "kernels/philox.h"

namespace heed::tasks {

std::string_view name_of(Split split) {
  constexpr std::array<std::string_view, 3> kNames = {"train", "valid", "test"};
  return kNames[static_cast<size_t>(split)];
}

uint64_t hash64(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u;
  hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
  return hash ^ hash >> 31;
}

uint64_t stream_key(std::string_view task, Split split, uint64_t seed) {
  return hash64(fmt::format("{}/{}/{}", task, static_cast<int>(split), seed));
}

uint32_t Random::word() {
  if (left_ == 0) {
    words_ = kernels::philox(key_, {static_cast<uint32_t>(block_), static_cast<uint32_t>(block_ >> 32),
                                    static_cast<uint32_t>(sample_), static_cast<uint32_t>(sample_ >> 32)});
    ++block_;
    left_ = 4;
  }
  return words_[static_cast<size_t>(4 - left_--)];
}

uint64_t Random::word64() {
  const uint64_t low = word();
  return static_cast<uint64_t>(word()) << 32 | low;
}

uint64_t Random::below(uint64_t n) {
  require(n > 0, "a random number below 0 was asked for");
  // The largest multiple of n; words from there on would make the first remainders likelier.
  const uint64_t excess = (UINT64_MAX % n + 1) % n;
  uint64_t value = word64();
  while (value > UINT64_MAX - excess) value = word64();
  return value % n;
}

int64_t Random::between(int64_t low, int64_t high) {
  require(low <= high, "a random number from {} to {} was asked for", low, high);
  const uint64_t count = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) + 1;
  return static_cast<int64_t>(static_cast<uint64_t>(low) + (count == 0 ? word64() : below(count)));
}

double Random::uniform() { return static_cast<double>(word64() >> 11) * 0x1p-53; }

double Random::normal() {
  const double radius = std::sqrt(-2 * std::log1p(-uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

std::vector<int64_t> Random::distinct(int64_t count, int64_t n) {
  require(count >= 0 && count <= n, "{} distinct numbers below {} were asked for", count, n);
  // The first `count` steps of a shuffle of 0..n-1, of which only the touched places are stored.
  std::unordered_map<int64_t, int64_t> moved;
  const auto at = [&](int64_t place) {
    const auto found = moved.find(place);
    return found == moved.end() ? place : found->second;
  };
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t other = between(i, n - 1);
    result.push_back(at(other));
    moved[other] = at(i);
  }
  return result;
}

}  // namespace heed::tasks
