// Causal softmax attention in two levels on torch tensors, differentiable.
#pragma once

#include <torch/torch.h>

namespace heed::ops {

/// Softmax over the own block's keys and the landmarks of earlier blocks, each of which shares its weight out over its
/// block, as heed/kernels/grouped_attention.h says: q [B, Hq, N, D], the last N of the M tokens of k [B, Hk, M, D] and
/// v [B, Hk, M, Dv]; float32, bfloat16, float16 or float64. `block` 2 to kernels::kMostGroupedKeys, the landmark
/// included; `scale` 0: 1 / sqrt(D); `hidden` bool [B, M] or undefined: keys that nobody sees. Returns [B, Hq, N, Dv].
/// Differentiable once in q, k and v. Throws heed::Error for what does not fit.
torch::Tensor grouped_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, int64_t block,
                                double scale = 0, double softcap = 0, const torch::Tensor& hidden = {});

}  // namespace heed::ops
