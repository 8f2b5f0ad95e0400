#include "heed/nn/landmark_tokens.h"

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

Tensor insert_landmarks(const Tensor& tokens, int64_t block, int64_t id) {
  require(tokens.dim() == 2 && block >= 2,
          "landmarks: tokens of {} dimensions, block = {}: 2, and 2 or more, are accepted", tokens.dim(), block);
  const auto with = torch::full({tokens.size(0), tokens.size(1) + tokens.size(1) / (block - 1)}, id, tokens.options());
  with.index_copy_(1, landmark_places(with.size(1), block).logical_not().nonzero().squeeze(1), tokens);
  return with;
}

Tensor landmark_places(int64_t n, int64_t block) {
  require(block >= 2, "landmarks: block = {}: 2 or more is accepted", block);
  return torch::arange(n) % block == block - 1;
}

}  // namespace heed::nn
