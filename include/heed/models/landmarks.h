// Landmark tokens (arXiv 2305.16300) that a model inserts among those it is given: its layers see one behind every
// block, and who calls the model sees none.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/transformer.h"

namespace heed {

class LandmarksImpl : public torch::nn::Module {
 public:
  /// A landmark is the last of every `block` tokens, 2 or more, and has an embedding of its own.
  LandmarksImpl(int64_t block, int64_t dim);

  /// `input`, behind `seen` tokens of a state (landmarks among them), with the landmarks behind every block that it
  /// completes; those of padding are padding. Throws heed::Error for what is told of each token but padding.
  MixerInput inserted(MixerInput input, int64_t seen) const;
  /// y [B, with landmarks, C] of such an input without what stands for landmarks.
  torch::Tensor dropped(const torch::Tensor& y, int64_t seen) const;

  /// So many tokens of a text, with their landmarks.
  int64_t with(int64_t tokens) const { return tokens + tokens / (block_ - 1); }
  int64_t block() const { return block_; }

  torch::Tensor embedding;  ///< [dim]

 private:
  int64_t block_;
};
TORCH_MODULE(Landmarks);

/// What layers of `blocks` ask for, registered in `owner` as landmarks; null where none does. Throws heed::Error for
/// layers whose blocks differ.
Landmarks make_landmarks(torch::nn::Module& owner, const std::vector<TransformerBlock>& blocks, int64_t dim);

}  // namespace heed
