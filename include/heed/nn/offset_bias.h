// A bias of attention logits for every offset between the cells of a window (Swin Transformer, arXiv 2103.14030).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// A table a head.
class OffsetBiasImpl : public torch::nn::Module {
 public:
  OffsetBiasImpl(int64_t heads, int64_t rows, int64_t columns);
  /// [1, heads, rows columns, rows columns]
  torch::Tensor forward();

  torch::Tensor table;  ///< [heads, (2 rows - 1) (2 columns - 1)]

 private:
  torch::Tensor index_;
};
TORCH_MODULE(OffsetBias);

}  // namespace heed::nn
