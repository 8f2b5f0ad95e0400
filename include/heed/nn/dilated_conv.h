// A large depthwise convolution learned as a sum of dilated ones and used as a single kernel (UniRepLKNet, arXiv
// 2311.15599).
#pragma once

#include <torch/torch.h>

#include <utility>
#include <vector>

#include "heed/nn/grid.h"

namespace heed::nn {

class DilatedConvImpl : public torch::nn::Module {
 public:
  /// A kernel of `size` x `size` cells, 3 to 17 and odd, beside smaller dilated ones within its reach; each is followed
  /// by a batch norm.
  DilatedConvImpl(int64_t channels, int64_t size);

  /// tokens [B, H W, C], 0 where hidden -> the same: the sum of the branches in training, one convolution otherwise.
  /// `hidden` bool [B, H W], or undefined: padding, which the norms do not count.
  torch::Tensor forward(const torch::Tensor& tokens, int64_t height, int64_t width, const torch::Tensor& hidden = {});
  /// The sum of the branches, always.
  torch::Tensor branches(const torch::Tensor& tokens, int64_t height, int64_t width, const torch::Tensor& hidden = {});
  /// The one kernel [C, 1, size, size] and bias [C] that branches with the statistics of training amount to.
  std::pair<torch::Tensor, torch::Tensor> merged() const;

 private:
  int64_t size_;
  std::vector<int64_t> dilations_;
  std::vector<GridConv> convs_;
  std::vector<torch::nn::BatchNorm1d> norms_;
};
TORCH_MODULE(DilatedConv);

}  // namespace heed::nn
