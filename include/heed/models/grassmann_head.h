// A classifier of pairs of texts (does one follow from the other?) over the states of an encoder: planes that a piece
// of each spans, by their Pluecker coordinates (arXiv 2512.19428).
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed {

struct GrassmannHeadConfig {
  int64_t dim = 256;   ///< channels C of the encoder's states
  int64_t rank = 32;   ///< r: coordinates of a plane are r (r - 1) / 2
  int64_t window = 4;  ///< tokens whose mean is one piece of a text
  int64_t labels = 3;  ///< classes
};

/// The states of one text of every item.
struct TextStates {
  torch::Tensor x;                       ///< [B, N, C]; detached where the encoder stays as it is
  std::optional<torch::Tensor> padding;  ///< bool [B, N], true = padding
};

class GrassmannHeadImpl : public torch::nn::Module {
 public:
  /// Xavier weights, no biases at first. Throws heed::Error for sizes out of their range.
  explicit GrassmannHeadImpl(const GrassmannHeadConfig& config);

  /// Logits [B, labels] of the means of both texts and of the mean over all pairs of pieces of their lifted planes.
  /// Throws heed::Error for tensors that do not fit.
  torch::Tensor forward(const TextStates& premise, const TextStates& hypothesis);

  const GrassmannHeadConfig& config() const { return config_; }

 private:
  GrassmannHeadConfig config_;
  torch::nn::Linear reduce_{nullptr}, lift_{nullptr}, classifier_{nullptr};
};
TORCH_MODULE(GrassmannHead);

}  // namespace heed
