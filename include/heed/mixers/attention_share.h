// What the attention of one layer leaves for later layers that use its weights again.
#pragma once

#include "heed/attention.h"

namespace heed {

/// One a forward of a model; a leader fills it, the layers behind it up to the next leader read it.
struct AttentionShare {
  torch::Tensor q, k;        ///< [B, Hq, n, D], [B, Hk, M, D] after positions; with a state all keys that it holds
  AttentionOptions options;  ///< the leader's mask and score terms
  /// float [B, Hq, M]: the weights of a single token behind others. Undefined where they are to be made from q and k.
  torch::Tensor weights;
  torch::Tensor embedded;  ///< [B, n, C]: the new tokens as the first layer got them
  /// heed/mixers/companion.h: [1, seen and n, C] for the first layer; undefined: there is none.
  torch::Tensor companion;
  bool beside = false;                     ///< the call is the companion's: a layer that lives by it leaves its q and k
  torch::Tensor companion_q, companion_k;  ///< [1, H, seen and n, D] of the layer at hand, before positions
};

}  // namespace heed
