// What S4 and S4D share: steps, the output layer, convolution with their kernels.
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::linear {

struct StateSpaceConfig {
  int64_t dim = 64;        ///< channels, each a system of its own
  int64_t state_dim = 64;  ///< N real dimensions: N / 2 complex states and their conjugates
  double min_step = 1e-3, max_step = 1e-1;
  std::string output = "glu";  ///< glu, linear or none, behind a GELU
  bool causal = true;

  static StateSpaceConfig read(ConfigReader& reader);
  int64_t pairs() const { return state_dim / 2; }
};

std::vector<Parameter> state_space_parameters(std::vector<Parameter> own = {});

/// A linear time-invariant system a channel, then GELU and an output layer. A whole sequence is a convolution; with a
/// state, the recurrence. Padded tokens come in as 0, and time passes over them.
class StateSpaceMixer : public RecurrentMixer {
 protected:
  StateSpaceMixer(std::string name, const StateSpaceConfig& config);

  torch::Tensor run(RecurrentCall& call) final;

  /// Impulse responses of `direction` (0, or 1: backwards) without skip, [T, C], in the dtype of `like`.
  virtual torch::Tensor kernel(int64_t tokens, int64_t direction) = 0;
  /// The outputs of u [B, T, C] from a state, which is made where undefined and becomes the one after u.
  virtual torch::Tensor recurrence(const torch::Tensor& u, torch::Tensor& state) = 0;

  /// exp(log_step) [directions, C]
  torch::Tensor steps() const { return torch::exp(log_step_); }
  int64_t directions() const { return config_.causal ? 1 : 2; }

  StateSpaceConfig config_;

 private:
  torch::Tensor convolve(const torch::Tensor& u);

  torch::Tensor log_step_, skip_;
  torch::nn::Linear output_{nullptr};
};

}  // namespace heed::linear
