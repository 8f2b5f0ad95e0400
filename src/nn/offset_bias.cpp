#include "heed/nn/offset_bias.h"

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

OffsetBiasImpl::OffsetBiasImpl(int64_t heads, int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {
  table = register_parameter("table", torch::randn({heads, (2 * rows - 1) * (2 * columns - 1)}).clamp(-2, 2) * 0.02);
}

Tensor OffsetBiasImpl::forward(int64_t rows, int64_t columns) {
  require(rows >= 1 && rows <= rows_ && columns >= 1 && columns <= columns_,
          "biases by offset of windows of {} x {} cells: 1 x 1 to {} x {} are accepted", rows, columns, rows_,
          columns_);
  if (indexed_ != std::pair{rows, columns}) {
    const auto row = torch::arange(rows).repeat_interleave(columns), column = torch::arange(columns).repeat({rows});
    const auto apart = [](const Tensor& at, int64_t size) { return at.unsqueeze(1) - at.unsqueeze(0) + size - 1; };
    index_ = (apart(row, rows_) * (2 * columns_ - 1) + apart(column, columns_)).flatten();
    indexed_ = {rows, columns};
  }
  return table.index_select(1, index_).view({1, table.size(0), rows * columns, rows * columns});
}

}  // namespace heed::nn
