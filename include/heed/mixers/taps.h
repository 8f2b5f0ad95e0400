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

  /// The residual stream [B, N, C] that a block gets.
  virtual void block_input(const LayerContext&, torch::Tensor& x) {}

  /// What the core of a layer gets: q [B, Hq, N, D], k and v [B, Hk|Hv, M, D|Dv] after positions; with a state k and v
  /// are all that it holds. Mixers without such a core never call it.
  virtual void core_input(const LayerContext&, CoreInput&) {}
  /// The head outputs [B, Hq, N, Dv] of a layer, before the output projection.
  virtual void core_output(const LayerContext&, torch::Tensor& heads) {}
  /// What a block's channel mixer gets [B, N, C], and what it adds to the residual stream (behind a norm of its own).
  virtual void mlp_input(const LayerContext&, torch::Tensor& x) {}
  virtual void mlp_output(const LayerContext&, torch::Tensor& added) {}
  /// The residual stream [B, N, C] that a block leaves.
  virtual void block_output(const LayerContext&, torch::Tensor& x) {}
};

}  // namespace heed
