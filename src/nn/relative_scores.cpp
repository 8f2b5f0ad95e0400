#include "heed/nn/relative_scores.h"

#include "heed/error.h"

namespace heed::nn {

torch::Tensor relative_shift(const torch::Tensor& x) {
  const int64_t r = x.size(-2), w = x.size(-1);
  require(w >= r, "relative shift: {} rows of {} distances: at least as many distances are accepted", r, w);
  if (r <= 1) return x;
  // Rows laid end to end: each starts one place earlier in its own.
  return x.flatten(-2).slice(-1, r - 1, r - 1 + r * (w - 1)).unflatten(-1, {r, w - 1}).slice(-1, 0, w - r + 1);
}

}  // namespace heed::nn
