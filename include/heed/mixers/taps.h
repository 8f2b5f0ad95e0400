// Named points of a running model where its tensors can be read and replaced.
#pragma once

#include "heed/mixers/token_mixer.h"

namespace heed {

/// Derive, override the points of interest, and hand it to a model's forward or to a mixer's input. A point that is not
/// overridden changes nothing; a model without taps pays one null test a point.
///
/// Points are called in the order of the layers. A replaced tensor is what the model goes on with; autograd sees it.
/// What a mixer's state has stored before the call is not changed by it.
class Taps {
 public:
  virtual ~Taps() = default;

  /// What the core of a layer gets: q [B, Hq, N, D], k and v [B, Hk|Hv, M, D|Dv] after positions; with a state k and v
  /// are all that it holds. Mixers without such a core never call it.
  virtual void core_input(const LayerContext&, CoreInput&) {}
  /// The head outputs [B, Hq, N, Dv] of a layer, before the output projection.
  virtual void core_output(const LayerContext&, torch::Tensor& heads) {}
};

}  // namespace heed
