// The vote of TokenSelect.
#pragma once

#include <torch/torch.h>

namespace heed::cache {

/// Of q [B, Hq, 1, D] over keys [B, Hkv, S, D]: float [B, 1, 1, S], the softmax weights of every query head summed. A
/// head has one vote whatever the size of its logits; all votes together are Hq. `scale` multiplies the products.
torch::Tensor token_votes(const torch::Tensor& q, const torch::Tensor& keys, double scale);

}  // namespace heed::cache
