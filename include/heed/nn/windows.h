// The cells of an image in groups that attend among themselves.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// A partition of the cells of an image, padded below and on the right where groups do not divide it.
class Windows {
 public:
  enum class Kind {
    block,  ///< neighbours: windows of rows x columns cells
    grid    ///< rows x columns cells spread evenly over the image
  };

  /// Groups larger than the image are cut to it. `shift`: blocks begin so many cells further down and right,
  /// cyclically; groups of cells from both ends of the image are kept apart by `documents`.
  Windows(Kind kind, int64_t height, int64_t width, int64_t rows, int64_t columns, int64_t shift = 0);

  /// Cells of a group along each axis.
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  /// Groups of a batch item.
  int64_t count() const { return padded_height_ / rows_ * (padded_width_ / columns_); }

  /// [B, height, width, C] -> [B count, rows columns, C], padding 0 behind the image.
  torch::Tensor split(const torch::Tensor& image) const;
  /// The inverse.
  torch::Tensor join(const torch::Tensor& windows) const;

  /// int32 [B count, rows columns]: cells of a group see each other where their numbers are equal. `hidden` bool
  /// [B, height, width], or undefined: cells that nobody sees. Undefined where all see each other.
  torch::Tensor documents(const torch::Tensor& hidden) const;

 private:
  Kind kind_;
  int64_t height_, width_, rows_, columns_, padded_height_, padded_width_, down_, right_;  // down_, right_: the shift
};

/// Blocks of `block` x `block` queries and, around each, the cells within `halo` of it.
class Halos {
 public:
  Halos(int64_t height, int64_t width, int64_t block, int64_t halo);

  int64_t count() const { return rows_ * columns_; }
  int64_t side() const { return block_ + 2 * halo_; }

  /// [B, height, width, C] -> [B count, block^2, C] and back; [B, height, width, C] -> [B count, side^2, C].
  torch::Tensor queries(const torch::Tensor& image) const;
  torch::Tensor join(const torch::Tensor& queries) const;
  torch::Tensor keys(const torch::Tensor& image) const;
  /// int32 [B count, side^2]: 0 for cells of the image, -1 for what lies outside or is hidden.
  torch::Tensor key_documents(int64_t batch, const torch::Tensor& hidden) const;

 private:
  int64_t height_, width_, block_, halo_, rows_, columns_;
  Windows blocks_;
};

}  // namespace heed::nn
