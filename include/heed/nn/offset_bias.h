// A bias of attention logits for every offset between the cells of a window (Swin Transformer, arXiv 2103.14030).
#pragma once

#include <torch/torch.h>

#include <utility>

namespace heed::nn {

/// A table a head.
class OffsetBiasImpl : public torch::nn::Module {
 public:
  OffsetBiasImpl(int64_t heads, int64_t rows, int64_t columns);
  /// [1, heads, rows columns, rows columns]
  torch::Tensor forward() { return forward(rows_, columns_); }
  /// The same of a smaller window.
  torch::Tensor forward(int64_t rows, int64_t columns);

  torch::Tensor table;  ///< [heads, (2 rows - 1) (2 columns - 1)]

 private:
  int64_t rows_, columns_;
  std::pair<int64_t, int64_t> indexed_{0, 0};
  torch::Tensor index_;  // of the window that was last asked for
};
TORCH_MODULE(OffsetBias);

}  // namespace heed::nn
