// How a dynamic_hierarchical_sparse_attention layer cuts its keys, and how its predictor learns to (arXiv 2510.24606).
#pragma once

#include <torch/torch.h>

#include "heed/mixers/token_mixer.h"

namespace heed {

/// Binary cross-entropy of the layer's predicted borders: a border is where consecutive keys of x [B, N, C] are less
/// alike, by the cosine, than `least`. Gradient reaches the predictor alone. Throws heed::Error for another mixer or
/// one without a predictor.
torch::Tensor border_loss(TokenMixer& mixer, const torch::Tensor& x, double least = 0.5);

}  // namespace heed
