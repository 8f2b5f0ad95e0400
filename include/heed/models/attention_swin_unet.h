// A U-Net of window attention whose decoder uses the encoder's attention again and whose skips exchange global tokens
// (Attention Swin U-Net, arXiv 2210.16898).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/cross_skip.h"
#include "heed/models/reduced_blocks.h"
#include "heed/models/vision_backbone.h"
#include "heed/nn/offset_bias.h"
#include "heed/nn/windows.h"

namespace heed {

/// How the decoder uses the weights that the encoder had in the same windows.
enum class AttentionReuse { none, sum, product };

/// `own` and `other` [..., N, N] of rows that sum to 1: their sum or product, with rows that sum to 1 again. A row of
/// `other` that is all 0 changes nothing in a sum.
torch::Tensor reused_weights(const torch::Tensor& own, const torch::Tensor& other, AttentionReuse reuse);

/// Window attention with a bias by offset, its weights written out, and a channel mixer.
class SwinBlockImpl : public torch::nn::Module {
 public:
  /// Windows of `window` cells a side, or of the grid's where that is less; `shifted` by half of that.
  SwinBlockImpl(const TransformerConfig& config, const Grid& grid, int64_t window, bool shifted);

  struct Output {
    torch::Tensor cells;    ///< [B, N, C]
    torch::Tensor weights;  ///< [B windows, heads, n, n], the block's own
  };
  /// `other`: weights of a block over the same windows, or undefined.
  Output forward(const torch::Tensor& cells, const torch::Tensor& other = {},
                 AttentionReuse reuse = AttentionReuse::none);

 private:
  torch::Tensor weights(const torch::Tensor& q, const torch::Tensor& k);

  int64_t heads_;
  Grid grid_;
  nn::Windows windows_;
  nn::Norm input_norm_{nullptr}, mlp_norm_{nullptr};
  torch::nn::Linear qkv_{nullptr}, out_{nullptr};
  nn::OffsetBias bias_{nullptr};
  std::shared_ptr<ChannelMixer> mlp_;
};
TORCH_MODULE(SwinBlock);

struct SwinUnetConfig {
  int64_t window = 4;  ///< cells a side
  int64_t scales = 3;  ///< grids, each half of the one before; the last is the bottom
  int64_t depth = 2;   ///< window blocks of a scale, every second one shifted
  AttentionReuse reuse = AttentionReuse::sum;
  CrossSkipConfig skip;
};

/// Scale s has s times the channels and heads of `spec.base`; the bottom's blocks are those of `spec.base`, with mixers
/// by name. Dense states are the decoder's finest cells; an image's is their mean.
class AttentionSwinUnetImpl : public VisionBackbone {
 public:
  AttentionSwinUnetImpl(const VisionSpec& spec, const SwinUnetConfig& config);
  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override;
  torch::Tensor answers(const torch::Tensor& states) override { return classifier_(states); }

 private:
  struct Scale {
    Grid grid;
    torch::nn::Conv2d embedding{nullptr};
    nn::Norm norm{nullptr};
    std::vector<SwinBlock> encoder, decoder;
    torch::nn::Linear expand{nullptr};
    CrossSkip skip{nullptr};
  };
  torch::Tensor expanded(Scale& scale, const torch::Tensor& cells, const Grid& from);

  VisionSpec spec_;
  SwinUnetConfig config_;
  std::vector<Scale> scales_;  // without the bottom
  Grid bottom_grid_;
  torch::nn::Conv2d bottom_embedding_{nullptr};
  std::vector<TransformerBlock> bottom_;
  LayerReducers bottom_reducers_;
  torch::Tensor positions_;
  nn::Norm norm_{nullptr};
  torch::nn::Linear classifier_{nullptr};
};
TORCH_MODULE(AttentionSwinUnet);

}  // namespace heed
