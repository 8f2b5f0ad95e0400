// Layers whose queries and keys come from a sequence of their own, which a model pushes through its layers beside its
// tokens (deconstructed_attention, arXiv 2510.11602).
#pragma once

#include <torch/torch.h>

#include <functional>

namespace heed {

/// Token ids int64 [1, n] -> embeddings [1, n, C]; empty outside a model.
using Embedding = std::function<torch::Tensor(const torch::Tensor& tokens)>;

class CompanionSource {
 public:
  virtual ~CompanionSource() = default;
  /// [1, tokens, C] as the first layer is to get it; undefined for layers that need none. Throws heed::Error where ids
  /// are to be embedded and nothing does it.
  virtual torch::Tensor companion(int64_t tokens, const Embedding& embed) const = 0;
};

}  // namespace heed
