// Orders in which scans walk over the cells of a grid.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace heed::nn {

/// The paths of a 2-D scan.
struct ScanPaths {
  torch::Tensor order;    ///< int64 [K, L]: the cell at each place of a path
  torch::Tensor inverse;  ///< int64 [K, L]: the place of each cell

  /// `kind`: "cross" (rows, columns, both backwards; arXiv 2401.10166), "snake" (the same with every second row or
  /// column turned round, so that neighbours on a path are neighbours in the grid; arXiv 2408.02615), "bidirectional"
  /// (rows, rows backwards), "single" (rows). Throws heed::Error for another one.
  ScanPaths(const std::string& kind, int64_t height, int64_t width);

  static const std::vector<std::string>& kinds();
  static int64_t count(const std::string& kind);  ///< K

  /// x [B, L, C], cells in row-major order -> [B, L, K, C], and its transpose: the sum over paths of y brought back.
  torch::Tensor scan(const torch::Tensor& x) const;
  torch::Tensor merge(const torch::Tensor& y) const;
};

}  // namespace heed::nn
