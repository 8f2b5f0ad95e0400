// A skip connection in which decoder and encoder exchange global tokens (Attention Swin U-Net, arXiv 2210.16898; the
// exchange is CrossViT's, arXiv 2103.14899).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <utility>
#include <vector>

#include "heed/mixers/token_mixer.h"

namespace heed {

struct CrossSkipConfig {
  int64_t depth = 2;  ///< exchanges; 0: a linear map of both sides
  int64_t heads = 4, head_dim = 16;
  /// The global token takes the place of the first cell, as in the paper; else it is added to all cells, and no cell is
  /// lost.
  bool first_cell = false;
};

class CrossSkipImpl : public torch::nn::Module {
 public:
  CrossSkipImpl(int64_t dim, const CrossSkipConfig& config);

  /// Cells of decoder and encoder [B, N, dim] -> [B, N, dim]: either side's global token is put back into its cells,
  /// and a linear map joins both sides.
  torch::Tensor forward(const torch::Tensor& decoder, const torch::Tensor& encoder);
  /// The global tokens of both sides, [B, 1, dim]: means of the cells that have attended to the other side `depth`
  /// times.
  std::pair<torch::Tensor, torch::Tensor> exchange(const torch::Tensor& decoder, const torch::Tensor& encoder);

 private:
  /// One attention of a global token to itself and to the other side's cells.
  struct Ask {
    torch::nn::LayerNorm norm{nullptr};
    std::shared_ptr<TokenMixer> attention;
    torch::Tensor operator()(const torch::Tensor& global, const torch::Tensor& cells);
  };

  CrossSkipConfig config_;
  std::vector<Ask> of_decoder_, of_encoder_;
  torch::nn::Linear join_{nullptr};
};
TORCH_MODULE(CrossSkip);

}  // namespace heed
