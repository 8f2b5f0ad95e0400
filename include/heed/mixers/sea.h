// SEA learns from a model with softmax attention (arXiv 2310.01777).
#pragma once

#include "heed/mixers/token_mixer.h"

namespace heed {

/// What a layer with softmax attention does with the same tokens.
struct SeaTeacher {
  torch::Tensor weights;  ///< [B, H, N, N], rows of shown tokens sum to 1
  torch::Tensor context;  ///< [B, H, N, D]: weights times values, before the output projection
};

/// 0.1 KL + MSE of the estimated map, stretched to keys, from the teacher's; the same of the mixer's own dense softmax
/// map; and the MSE of its heads' outputs: what is added to a task's loss, a layer. Means over shown tokens. O(N^2).
/// Throws heed::Error for a mixer other than `sea` and for tensors that do not fit.
torch::Tensor sea_distillation_loss(TokenMixer& mixer, const MixerInput& input, const SeaTeacher& teacher);

}  // namespace heed
