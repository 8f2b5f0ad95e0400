// One model as many: the mean prediction of draws of its keys (arXiv 2306.01705).
#pragma once

#include "heed/models/decoder_lm.h"

namespace heed {

/// log of the mean over `draws` of the next-token probabilities of `model` in evaluation, its layers of
/// stochastic_subsampled_attention drawing keys by `seed` and the draw: tokens int64 [B, N] -> [B, N, vocab], no
/// gradient. Throws heed::Error for a model without such layers and for draws below 1.
torch::Tensor ensemble_log_probabilities(DecoderLm& model, const torch::Tensor& tokens, int64_t draws,
                                         uint64_t seed = 0);

}  // namespace heed
