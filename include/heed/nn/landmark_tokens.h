// Landmark tokens in texts (arXiv 2305.16300): the last token of every block of a landmark_attention layer.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// tokens int64 [B, N] with `id` behind every `block` - 1 of them: [B, N + N / (block - 1)]. Throws heed::Error for
/// blocks below 2.
torch::Tensor insert_landmarks(const torch::Tensor& tokens, int64_t block, int64_t id);

/// bool [n]: which tokens of such a text, counted from its begin, are landmarks.
torch::Tensor landmark_places(int64_t n, int64_t block);

}  // namespace heed::nn
