// Layers x += mixer(norm(x)), without channel mixers between them: how models of state-space mixers are stacked
// (Mamba, arXiv 2312.00752).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "heed/mixers/token_mixer.h"
#include "heed/nn/norm.h"

namespace heed {

/// One a layer.
using MixerStates = std::vector<std::unique_ptr<MixerState>>;

class MixerStackImpl : public torch::nn::Module {
 public:
  /// `layers` mixers `mixer` of `dim` channels, 0 or more; `config` has their other keys. Projections start as
  /// N(0, 1 / inputs), those onto the residual stream smaller by sqrt(layers). Throws heed::Error for what the mixer
  /// refuses.
  MixerStackImpl(const std::string& mixer, nlohmann::json config, int64_t dim, int64_t layers);

  /// input.x [B, N, dim] -> the same. With states: appends to what they have seen.
  torch::Tensor forward(MixerInput input, const MixerStates* states = nullptr);
  /// What layer `layer` adds to input.x.
  torch::Tensor added(size_t layer, MixerInput input, MixerState* state = nullptr);
  MixerStates make_states(int64_t batch) const;
  size_t layers() const { return mixers_.size(); }

 private:
  std::vector<nn::Norm> norms_;
  std::vector<std::shared_ptr<TokenMixer>> mixers_;
};
TORCH_MODULE(MixerStack);

}  // namespace heed
