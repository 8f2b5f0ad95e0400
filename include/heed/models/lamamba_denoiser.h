// LaMamba-Diff (arXiv 2408.02615): a U-Net of LaMamba blocks that tells the noise in an image, given the time and the
// image's class.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/unet.h"

namespace heed {

struct LaMambaDenoiserConfig {
  int64_t height = 32, width = 32, channels = 4;  ///< of the images (latents); a cell is a pixel
  int64_t dim = 64, heads = 4;                    ///< of the first scale; scale s has s + 1 times as many
  int64_t scales = 3;                             ///< grids, each half of the one before
  int64_t depth = 2;                              ///< blocks of a scale on the way down; one more on the way up
  int64_t classes = 10;
  double class_dropout = 0.1;                       ///< share of images that training shows without their class
  bool learned_variance = true;                     ///< as many channels again beside the noise
  nlohmann::json block = nlohmann::json::object();  ///< further keys of the lamamba blocks
};

class LaMambaDenoiserImpl : public torch::nn::Module {
 public:
  /// Blocks are the identity at first, and the answer is 0. Throws heed::Error for sizes that do not fit.
  explicit LaMambaDenoiserImpl(LaMambaDenoiserConfig config);

  /// images [B, channels, height, width], times [B] (any scale; 0 to 1000 in the paper), labels int64 [B], where
  /// `classes` stands for none -> [B, channels or 2 channels, height, width]. In training `seed` draws whose class is
  /// hidden. Throws heed::Error for tensors that do not fit.
  torch::Tensor forward(const torch::Tensor& images, const torch::Tensor& times, const torch::Tensor& labels,
                        uint64_t seed = 0);

  const LaMambaDenoiserConfig& config() const { return config_; }

 private:
  /// The embeddings of time and class, [B, 2, dim].
  torch::Tensor conditions(const torch::Tensor& times, torch::Tensor labels, uint64_t seed);

  LaMambaDenoiserConfig config_;
  torch::nn::Linear embedding_{nullptr}, time_in_{nullptr}, time_out_{nullptr}, modulation_{nullptr}, head_{nullptr};
  torch::nn::Embedding class_embedding_{nullptr};
  torch::Tensor positions_;
  UNet body_{nullptr};
  std::vector<std::vector<std::shared_ptr<TokenMixer>>> blocks_;  // of every stop
  std::vector<torch::nn::Linear> widen_;  // of scales behind the first: conditions to its channels
};
TORCH_MODULE(LaMambaDenoiser);

}  // namespace heed
