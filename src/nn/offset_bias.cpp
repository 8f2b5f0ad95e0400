#include "heed/nn/offset_bias.h"

#include <cmath>

namespace heed::nn {

using torch::Tensor;

OffsetBiasImpl::OffsetBiasImpl(int64_t heads, int64_t rows, int64_t columns) {
  const int64_t across = 2 * columns - 1;
  table = register_parameter("table", torch::randn({heads, (2 * rows - 1) * across}).clamp(-2, 2) * 0.02);
  const auto row = torch::arange(rows).repeat_interleave(columns), column = torch::arange(columns).repeat({rows});
  const auto apart = [](const Tensor& at, int64_t size) { return at.unsqueeze(1) - at.unsqueeze(0) + size - 1; };
  index_ = (apart(row, rows) * across + apart(column, columns)).flatten();
}

Tensor OffsetBiasImpl::forward() {
  const auto cells = static_cast<int64_t>(std::llround(std::sqrt(double(index_.numel()))));
  return table.index_select(1, index_).view({1, table.size(0), cells, cells});
}

}  // namespace heed::nn
