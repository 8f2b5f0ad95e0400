#include "heed/nn/grid_windows.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Windows along one side: the coordinate at each of their places [windows, places], outside the side too.
Tensor along(int64_t cells, int64_t size, bool shifted) {
  if (cells <= size) return torch::arange(cells).unsqueeze(0);
  const int64_t before = shifted ? (size - size / 2) % size : 0, windows = (cells + before + size - 1) / size;
  return (torch::arange(windows * size) - before).view({windows, size});
}

}  // namespace

GridWindows::GridWindows(int64_t height, int64_t width, int64_t size, bool shifted) {
  require(height >= 0 && width >= 0 && size >= 1,
          "windows of {} x {} over {} x {} cells: sizes of 1 or more over 0 or more are accepted", size, size, height,
          width);
  const auto rows = along(height, size, shifted), columns = along(width, size, shifted);
  const std::vector<int64_t> shape{rows.size(0), columns.size(0), rows.size(1), columns.size(1)};
  const auto row = rows.view({shape[0], 1, shape[2], 1}).expand(shape),
             column = columns.view({1, shape[1], 1, shape[3]}).expand(shape);
  const auto outside = (row < 0) | (row >= height) | (column < 0) | (column >= width);
  const std::vector<int64_t> flat{shape[0] * shape[1], shape[2] * shape[3]};
  empty = outside.reshape(flat);
  cell = (row * width + column).reshape(flat).masked_fill(empty, 0);
  const auto shown = empty.logical_not().flatten().nonzero().squeeze(1);
  place = torch::empty({height * width}, torch::kInt64);
  place.index_put_({cell.flatten().index_select(0, shown)}, shown);
  const auto way = [&](int64_t places) {
    return torch::arange(places).unsqueeze(1) - torch::arange(places).unsqueeze(0) + (size - 1);
  };
  offset =
      (way(shape[2]).view({shape[2], 1, shape[2], 1}) * (2 * size - 1) + way(shape[3]).view({1, shape[3], 1, shape[3]}))
          .reshape({flat[1], flat[1]});
}

Tensor GridWindows::split(const Tensor& x) const {
  return x.index_select(1, cell.flatten()).view({-1, cell.size(1), x.size(2)});
}

Tensor GridWindows::join(const Tensor& y) const {
  return y.reshape({-1, cell.numel(), y.size(2)}).index_select(1, place);
}

}  // namespace heed::nn
