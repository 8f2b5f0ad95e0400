// Images from noise: attention in two sorts of windows, steered by a style (StyleSwin, arXiv 2112.10762).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <vector>

#include "heed/mixers/token_mixer.h"
#include "heed/nn/style.h"

namespace heed {

struct StyleGeneratorConfig {
  int64_t latent = 64, style = 64;  ///< numbers of z and of w
  int64_t mapping = 4;              ///< layers from z to w
  /// Channels of every resolution: 4 x 4 cells, 8 x 8, ...; images have as many pixels as the last has cells.
  std::vector<int64_t> dims{64, 64, 32};
  int64_t heads = 4;    ///< of the double windows, even; they divide all dims
  int64_t window = 8;   ///< cells a side of windows, at most those of the resolution
  int64_t colours = 3;  ///< channels of an image

  /// Pixels a side.
  int64_t side() const { return int64_t{4} << (dims.size() - 1); }
};

class StyleGeneratorImpl : public torch::nn::Module {
 public:
  /// With parameters drawn at random. Throws heed::Error for sizes that do not fit.
  explicit StyleGeneratorImpl(StyleGeneratorConfig config);

  /// z [B, latent] -> w [B, style]: z is brought to length sqrt(latent), then layers of leaky ReLUs.
  torch::Tensor style(const torch::Tensor& z);
  /// w [B, style] -> images [B, colours, side, side]: the sum of what every resolution paints.
  torch::Tensor paint(const torch::Tensor& w);
  torch::Tensor forward(const torch::Tensor& z) { return paint(style(z)); }

  const StyleGeneratorConfig& config() const { return config_; }

 private:
  /// Double window attention and a perceptron, each behind a norm that the style steers.
  struct Block {
    nn::AdaptiveInstanceNorm norm{nullptr}, mlp_norm{nullptr};
    std::shared_ptr<TokenMixer> attention;
    torch::nn::Linear up{nullptr}, down{nullptr};
    torch::Tensor operator()(const torch::Tensor& cells, const torch::Tensor& w, const Grid& grid);
  };
  struct Resolution {
    Grid grid;
    torch::nn::LayerNorm norm{nullptr};  // of what the resolution before left; not of the first
    torch::nn::Linear widen{nullptr};
    torch::Tensor positions, share;  // sinusoids [1, cells, C], and how much of them is added
    std::vector<Block> blocks;
    torch::nn::Linear colours{nullptr};
  };

  StyleGeneratorConfig config_;
  std::vector<nn::EqualLinear> mapping_;
  torch::Tensor first_;  // [1, 16, C]
  std::vector<Resolution> resolutions_;
};
TORCH_MODULE(StyleGenerator);

}  // namespace heed
