#include "heed/nn/running_top.h"

#include <cmath>
#include <queue>
#include <vector>

#include "heed/error.h"

namespace heed::nn {
namespace {

/// One row: the place at which each of its entries is dropped, `length` where none is.
void follow(const double* row, int64_t length, int64_t count, int64_t* dropped) {
  // The one to drop first on top: the smallest, among equals the latest.
  const auto stays_longer = [&](int64_t a, int64_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); };
  std::priority_queue<int64_t, std::vector<int64_t>, decltype(stays_longer)> kept(stays_longer);
  for (int64_t j = 0; j < length; ++j) {
    const bool full = int64_t(kept.size()) == count;
    if (row[j] == -INFINITY) {
      dropped[j] = 0;
    } else if (full && !stays_longer(j, kept.top())) {
      dropped[j] = j;
    } else {
      if (full) {
        dropped[kept.top()] = j;
        kept.pop();
      }
      kept.push(j);
    }
  }
}

}  // namespace

torch::Tensor dropped_at(const torch::Tensor& scores, int64_t count) {
  require(count >= 1, "running top: count = {}: 1 or more is accepted", count);
  const auto values = scores.detach().to(torch::kFloat64).contiguous();
  const int64_t length = values.size(-1), rows = length ? values.numel() / length : 0;
  const auto result = torch::full(values.sizes(), length, torch::kInt64);
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      follow(values.data_ptr<double>() + r * length, length, count, result.data_ptr<int64_t>() + r * length);
  });
  return result;
}

}  // namespace heed::nn
