// The seam through which a cache policy does a layer's attention: it decides what is kept and what each head reads.
#pragma once

#include "heed/attention.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/positions.h"

namespace heed {

/// New tokens of one layer, as the projections left them.
struct CacheCall {
  LayerContext layer;
  torch::Tensor q, k, v;              ///< [B, Hq, n, D], [B, Hkv, n, D], [B, Hkv, n, Dv], not yet rotated
  torch::Tensor positions;            ///< int64 [n]
  const nn::PositionsImpl* encoding;  ///< rotates; the cache owns at which positions
  AttentionOptions options;           ///< scale, soft cap and mask of the mixer
  torch::Tensor residual;             ///< [B, n, C]: the residual stream that became them; undefined outside a block
};

/// A state that attends by itself. Mixers whose core is softmax attention over their own tokens hand their calls to it.
class AttentionCache : public MixerState {
 public:
  /// Appends the tokens and returns the head outputs [B, Hq, n, Dv].
  virtual torch::Tensor attend(const CacheCall& call) = 0;
};

}  // namespace heed
