// Whether an image was painted, told from its wavelets at every resolution (StyleSwin, arXiv 2112.10762; the network is
// that of SWAGAN, arXiv 2102.06108), and the losses by which it and a generator learn.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

namespace heed {

struct StyleDiscriminatorConfig {
  /// Channels of every resolution, from half of the image's down to 4 x 4 cells.
  std::vector<int64_t> dims{32, 64};
  int64_t colours = 3;  ///< channels of an image

  /// Pixels a side: 4 cells after as many halvings as there are resolutions.
  int64_t side() const { return int64_t{4} << dims.size(); }
};

class StyleDiscriminatorImpl : public torch::nn::Module {
 public:
  /// With parameters drawn at random. Throws heed::Error for sizes that do not fit.
  explicit StyleDiscriminatorImpl(StyleDiscriminatorConfig config);

  /// images [B, colours, side, side] -> [B], above 0 where they look real. The images of a batch are seen together: one
  /// number says how much they differ.
  torch::Tensor forward(const torch::Tensor& images);

  const StyleDiscriminatorConfig& config() const { return config_; }

 private:
  /// 3 x 3 or 1 x 1, with normal weights that are scaled when they are used, and a leaky ReLU.
  struct Conv {
    torch::Tensor weight, bias;
    torch::Tensor operator()(const torch::Tensor& x) const;
  };
  Conv conv(const std::string& name, int64_t in, int64_t out, int64_t size);

  StyleDiscriminatorConfig config_;
  struct Resolution {
    Conv read, mix, widen;
  };
  std::vector<Resolution> resolutions_;
  Conv last_, hidden_;
  torch::Tensor answer_;  // [1, C]
};
TORCH_MODULE(StyleDiscriminator);

/// What a discriminator lowers: the mean of softplus(fake) + softplus(-real). [B] each.
torch::Tensor discriminator_loss(const torch::Tensor& real, const torch::Tensor& fake);
/// What a generator lowers: the mean of softplus(-fake).
torch::Tensor generator_loss(const torch::Tensor& fake);
/// R1 (arXiv 1801.04406): the mean over images of the squared length of the gradient of what `discriminator` says of
/// them, in a graph of its own, so that it can be lowered. Commonly added half of 10 times.
torch::Tensor r1_penalty(const std::function<torch::Tensor(const torch::Tensor&)>& discriminator,
                         const torch::Tensor& real);

}  // namespace heed
