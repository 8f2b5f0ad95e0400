// What a policy loses inside every layer: attention mass, the keys that matter, the output.
#pragma once

#include <vector>

#include "heed/cache/session.h"

namespace heed::cache {

/// Means over steps, sequences and query heads of one layer.
struct LayerLoss {
  int64_t layer = 0;
  double mass = 1;         ///< m_S, the share of the full attention's weights on the tokens that the policy reads
  double kl = 0;           ///< -ln m_S in nats: KL of the weights renormalised over those tokens from the full ones
  double recall = 1;       ///< share of the k keys of the largest weights that are read
  double out_rel_err = 0;  ///< ||o_policy - o_full|| / ||o_full||
};

/// Both caches in lock-step: every layer's own queries, keys and values under the full cache are also given to the
/// policy, so that no layer inherits the error of those below. `tokens` int64 [1, N], of which the first `prompt` are
/// the prompt and the others are fed as steps. One entry for each layer that follows the policy.
///
/// Compensation tokens and changed positions make weights of their own, which mass and recall leave aside.
std::vector<LayerLoss> layer_losses(const DecoderLm& model, const Policy& policy, const torch::Tensor& tokens,
                                    int64_t prompt, int64_t k = 16);

}  // namespace heed::cache
