#include "heed/models/unet.h"

#include "heed/error.h"
#include "heed/nn/grid.h"

namespace heed {

using torch::Tensor;

torch::nn::Conv2d halving_conv(int64_t in, int64_t out) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(2).padding(1));
}

Tensor unfolded_cells(const Tensor& cells, const Grid& from, const Grid& to) {
  const auto image = nn::to_image(cells, from.sizes[0], from.sizes[1]);
  const auto twice = torch::pixel_shuffle(image.contiguous(), 2);
  return nn::to_tokens(twice.narrow(2, 0, to.sizes[0]).narrow(3, 0, to.sizes[1]));
}

UNetImpl::UNetImpl(Grid grid, int64_t dim, int64_t scales) {
  require(scales >= 1 && scales <= 16, "a U-Net of {} scales: 1 to 16 are accepted", scales);
  for (int64_t s = 0; s < scales; ++s) {
    grids_.push_back(grid);
    for (auto& size : grid.sizes) size = (size + 1) / 2;
    if (s + 1 == scales) break;
    const auto number = std::to_string(s);
    const int64_t here = dim * (s + 1), below = dim * (s + 2);
    down_.push_back(register_module("down_" + number, halving_conv(here, below)));
    up_.push_back(register_module("up_" + number, torch::nn::Linear(below, 4 * here)));
    join_.push_back(register_module("join_" + number, torch::nn::Linear(2 * here, here)));
  }
}

Tensor UNetImpl::forward(Tensor x, const Stop& stop) {
  std::vector<Tensor> skips;
  for (size_t s = 0; s < grids_.size(); ++s) {
    x = stop(s, x);
    if (s + 1 == grids_.size()) break;
    skips.push_back(x);
    const auto& grid = grids_[s].sizes;
    x = nn::to_tokens(down_[s](nn::to_image(x, grid[0], grid[1]).contiguous())).contiguous();
  }
  for (size_t s = down_.size(); s-- > 0;) {
    const auto risen = unfolded_cells(up_[s](x), grids_[s + 1], grids_[s]);
    x = stop(stops() - 1 - s, join_[s](torch::cat({risen, skips[s]}, 2)));
  }
  return x;
}

}  // namespace heed
