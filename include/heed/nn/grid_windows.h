// Windows over the cells of a grid: inside each, attention is local (Swin, arXiv 2103.14030).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// Windows of size x size cells, aligned to the first cell or, shifted, half a window before it. A side of at most
/// `size` cells is one window, shifted or not. What sticks out of the grid is empty: shifted windows hold the cells
/// that rolling the grid and hiding what was rolled over leave together.
struct GridWindows {
  torch::Tensor cell;   ///< int64 [W, S]: the cell at each place of a window, 0 where there is none
  torch::Tensor empty;  ///< bool [W, S]
  torch::Tensor place;  ///< int64 [L]: where each cell stands in [W * S]
  /// int64 [S, S]: the row, of a table of (2 size - 1)^2, of the way from place j to place i.
  torch::Tensor offset;

  GridWindows(int64_t height, int64_t width, int64_t size, bool shifted);

  int64_t windows() const { return cell.size(0); }
  /// x [B, L, C] -> [B * W, S, C] and back; empty places hold whatever cell 0 does.
  torch::Tensor split(const torch::Tensor& x) const;
  torch::Tensor join(const torch::Tensor& y) const;
};

}  // namespace heed::nn
