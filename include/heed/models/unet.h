// The shape of a U-Net over the cells of a grid (arXiv 1505.04597): grids that halve and widen, and back through skips.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "heed/mixers/token_mixer.h"

namespace heed {

/// A convolution that halves a grid, rounded up.
torch::nn::Conv2d halving_conv(int64_t in, int64_t out);

/// Cells [B, N, 4 C] of the grid `from` -> [B, M, C] of `to`, twice as large a side, each as four; what lies beyond
/// `to` is cut off.
torch::Tensor unfolded_cells(const torch::Tensor& cells, const Grid& from, const Grid& to);

/// Scale s has half the grid of the one before, rounded up, and s + 1 times the channels.
class UNetImpl : public torch::nn::Module {
 public:
  /// `scales` of 1 or more; the first has the cells of `grid` and `dim` channels. Throws heed::Error otherwise.
  UNetImpl(Grid grid, int64_t dim, int64_t scales);

  /// What stands at stop `stop` on the way: cells [B, N, channels] of its grid -> the same.
  using Stop = std::function<torch::Tensor(size_t stop, const torch::Tensor& cells)>;
  /// x [B, N, dim] down through all scales and up again, [B, N, dim]. On the way up a scale reads what it had on the
  /// way down beside what comes from below.
  torch::Tensor forward(torch::Tensor x, const Stop& stop);

  /// 2 scales - 1: down, the bottom, up.
  size_t stops() const { return 2 * grids_.size() - 1; }
  size_t scale_of(size_t stop) const { return stop < grids_.size() ? stop : stops() - 1 - stop; }
  const Grid& grid(size_t stop) const { return grids_[scale_of(stop)]; }
  bool is_up(size_t stop) const { return stop >= grids_.size(); }

 private:
  std::vector<Grid> grids_;
  std::vector<torch::nn::Conv2d> down_;
  std::vector<torch::nn::Linear> up_, join_;
};
TORCH_MODULE(UNet);

}  // namespace heed
