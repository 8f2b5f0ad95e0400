// Layers that see random parts of a sequence while they learn (stochastic_subsampled_attention).
#pragma once

#include <torch/torch.h>

#include <string>

namespace heed {

class Subsampling {
 public:
  virtual ~Subsampling() = default;
  /// When keys are drawn: in training (at first), always (self-ensembles), or never (the dense end of a training).
  enum class When { training, always, never };
  When subsampled = When::training;
};

/// Sets all such layers within `model` (their rows' "evaluate" is what they begin with); returns how many there are.
int64_t set_subsampling(torch::nn::Module& model, Subsampling::When when);

}  // namespace heed
