// Partial results of softmax attention over disjoint key sets, and their one associative merge.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace heed::kernels {

/// o += other, lse = logaddexp(lse, other): the exact result over the union of both key sets. Safe for two empty
/// sides (o = 0, lse = -inf). `o` and `other_o` have `size` floats.
inline void merge(float* o, float& lse, const float* other_o, float other_lse, int64_t size) {
  const float top = lse > other_lse ? lse : other_lse;
  if (top == -std::numeric_limits<float>::infinity()) return;
  const float a = std::exp(lse - top), b = std::exp(other_lse - top);
  const float wa = a / (a + b), wb = b / (a + b);
  for (int64_t d = 0; d < size; ++d) o[d] = wa * o[d] + wb * other_o[d];
  lse = top + std::log(a + b);
}

/// One more key of value 0 and logit `sink`: joined once, after the last merge.
inline void join_sink(float* o, float& lse, float sink, int64_t size) {
  if (sink == -std::numeric_limits<float>::infinity()) return;
  const float top = lse > sink ? lse : sink;
  const float total = top + std::log(std::exp(lse - top) + std::exp(sink - top));
  const float w = std::exp(lse - total);
  for (int64_t d = 0; d < size; ++d) o[d] *= w;
  lse = total;
}

}  // namespace heed::kernels
