// The half of a block that mixes channels, token by token or over a grid.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "heed/formats/block_config.h"
#include "heed/mixers/token_mixer.h"

namespace heed {

class ChannelMixer : public torch::nn::Module {
 public:
  /// x [B, N, C] -> [B, N, C].
  virtual torch::Tensor forward(const torch::Tensor& x, const std::optional<Grid>& grid) = 0;
  /// What x [B, N, C] becomes on its way through, by name; the last is what `forward` gives. Throws heed::Error where a
  /// grid is needed.
  virtual std::vector<std::pair<std::string, torch::Tensor>> stages(const torch::Tensor& x) = 0;
  /// The weight whose output joins the residual stream; models scale its initial values by their depth.
  virtual torch::Tensor output_weight() const = 0;
};

torch::Tensor activate(const torch::Tensor& x, formats::Activation activation);

/// `block.channel_mixer` for `dim` channels and `hidden` inner ones: gated_mlp, down(act(gate(x)) * up(x))
/// (arXiv 2002.05202), or mlp, down(act(up(x))); conv_glu (arXiv 2311.17132) and conv_mlp (PVTv2, arXiv 2106.13797) see
/// the neighbours of a cell, too: act(d(gate(x))) and act(d(up(x))), d a depthwise convolution of 3 x 3 cells, for
/// which `forward` needs a grid; so does conv_grn, h = act(up(x)), h += d(h), down(gain (h r / mean r) + shift + h), r
/// the length of a channel over all cells (global response normalisation, arXiv 2301.00808; OverLoCK, arXiv
/// 2502.20087); conv_share_mlp is mlp by shared convolutions (heed/nn/shared_conv.h), dim a square; null for
/// none. Throws heed::Error for another name.
std::shared_ptr<ChannelMixer> make_channel_mixer(const formats::BlockConfig& block, int64_t dim, int64_t hidden);

}  // namespace heed
