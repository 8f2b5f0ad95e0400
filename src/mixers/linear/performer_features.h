// The random features of FAVOR+ (arXiv 2009.14794), as mixers use them.
#pragma once

#include <torch/torch.h>

#include <string>

#include "mixers/linear/heads_config.h"

namespace heed::linear {

struct PerformerFeatures {
  torch::Tensor rows;  ///< [m, key_dim], of nn::orthogonal_rows
  /// softmax: phi(q) . phi(k) estimates exp(q . k / sqrt(key_dim)); hyperbolic: the same from rows and their negatives;
  /// relu: no estimate.
  std::string kind = "softmax";
  double eps = 1e-4;  ///< added to every feature of softmax and hyperbolic, the largest of which is 1
};

/// Attention under phi(q) . phi(k), divided by its sum: [B, H, N, head_dim]. Causal, the past is in slots of the call
/// from `first_slot` on: one of relu, three of the others.
///
/// The exponents of softmax features have their largest taken off: a query's own, and of keys that of all, or, causal,
/// of those so far, by which the past is scaled down whenever it grows. It cancels but for eps.
torch::Tensor performer_attention(RecurrentCall& call, size_t first_slot, const Heads& heads,
                                  const PerformerFeatures& features, bool causal);

}  // namespace heed::linear
