// An order of few places in which the first ones are spread over all.
#pragma once

#include <cstdint>
#include <numbers>
#include <numeric>

namespace heed::tasks {

/// Element index modulo count of an order of [0, count): steps of about count / phi, which leave no large gap.
inline int64_t strewn(uint64_t index, int64_t count) {
  const auto n = static_cast<uint64_t>(count);
  auto stride = static_cast<uint64_t>(static_cast<double>(n) / std::numbers::phi) + 1;
  while (std::gcd(stride, n) != 1) ++stride;
  return static_cast<int64_t>(index % n * stride % n);
}

}  // namespace heed::tasks
