// Sparsifiner's cheap attention learns from a dense one (arXiv 2303.13755).
#pragma once

#include <torch/torch.h>

#include "heed/mixers/token_mixer.h"

namespace heed {

/// weight times the sum of squared differences between the low-rank map A_down U^T, no threshold applied, and the
/// attention `teacher` [B, H, N, N] of the same tokens, over the rows that are predicted; undefined: the mixer's own
/// dense attention. Gradient reaches the predictor alone. Throws heed::Error for a mixer other than `sparsifiner` and a
/// map that does not fit.
torch::Tensor sparsifiner_loss(TokenMixer& mixer, const MixerInput& input, const torch::Tensor& teacher = {},
                               double weight = 0.01);

}  // namespace heed
