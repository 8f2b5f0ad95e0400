#include "heed/nn/running_top.h"

#include <cmath>
#include <queue>

#include "heed/error.h"

namespace heed::nn {

torch::Tensor dropped_at(const torch::Tensor& scores, int64_t count) {
  require(count >= 1, "running top: count = {}: 1 or more is accepted", count);
  const auto values = scores.detach().to(torch::kFloat64).contiguous();
  const int64_t length = values.size(-1), rows = length ? values.numel() / length : 0;
  const auto result = torch::full(values.sizes(), length, torch::kInt64);
  for (int64_t r = 0; r < rows; ++r) {
    const double* row = values.data_ptr<double>() + r * length;
    int64_t* dropped = result.data_ptr<int64_t>() + r * length;
    // The one to drop first on top: the smallest, among equals the latest.
    const auto stays_longer = [&](int64_t a, int64_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); };
    std::priority_queue<int64_t, std::vector<int64_t>, decltype(stays_longer)> kept(stays_longer);
    for (int64_t j = 0; j < length; ++j) {
      if (row[j] == -INFINITY) {
        dropped[j] = 0;
        continue;
      }
      kept.push(j);
      if (int64_t(kept.size()) <= count) continue;
      dropped[kept.top()] = j;
      kept.pop();
    }
  }
  return result;
}

}  // namespace heed::nn
