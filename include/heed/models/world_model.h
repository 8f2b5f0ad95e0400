// Drama's world model (arXiv 2410.08893): observations as discrete codes, a state-space mixer over codes and actions,
// and heads that foretell the next code, the reward and the end.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <string>

#include "heed/models/mixer_stack.h"
#include "heed/nn/categorical.h"

namespace heed {

struct WorldModelConfig {
  int64_t observation = 81;  ///< numbers of an observation
  int64_t actions = 4;
  int64_t categoricals = 32, classes = 32;  ///< a code z is that many one-hot variables
  int64_t dim = 512, layers = 2;            ///< of the sequence model; no layers: nothing is remembered
  int64_t hidden = 512;                     ///< width of encoder, decoder and heads
  std::string mixer = "mamba2";             ///< of the sequence model: any causal one with a step
  nlohmann::json mixer_config = {{"state_dim", 16}};
  int64_t reward_bins = 255;
  double reward_range = 20;     ///< symlog rewards beyond it are clipped
  double free_bits = 1;         ///< KL terms below it, in nats, have no gradient
  double representation = 0.1;  ///< weight of the KL that draws codes towards what is foretold
};

/// Steps of experience: what was seen, what was done, what came of it.
struct WorldBatch {
  torch::Tensor observations;  ///< float [B, T, observation]
  torch::Tensor actions;       ///< int64 [B, T]
  torch::Tensor rewards;       ///< float [B, T], of the action
  torch::Tensor ends;          ///< bool [B, T]: the episode ended with the action
  torch::Tensor starts;        ///< bool [B, T]: an episode begins here
};

struct WorldLoss {
  torch::Tensor reconstruction, reward, end, dynamics, representation;  ///< scalars, means over steps
  torch::Tensor total;
};

class WorldModelImpl : public torch::nn::Module {
 public:
  /// Throws heed::Error for sizes that do not fit.
  explicit WorldModelImpl(WorldModelConfig config);

  /// observations [..., observation] -> logits of codes [..., categoricals, classes].
  torch::Tensor encode(const torch::Tensor& observations);
  /// Codes [..., categoricals, classes] -> observations.
  torch::Tensor decode(const torch::Tensor& codes);

  /// d [B, T, dim] of codes [B, T, categoricals, classes] and the actions int64 [B, T] that followed them. A step where
  /// `starts` bool [B, T] is true remembers nothing before it; with `states`, which then can't be given, appends to
  /// what they have seen. Steps where `padding` bool [B, T] is true are not there.
  torch::Tensor sequence(const torch::Tensor& codes, const torch::Tensor& actions,
                         const std::optional<torch::Tensor>& starts = {}, const MixerStates* states = nullptr,
                         const std::optional<torch::Tensor>& padding = {});
  MixerStates make_states(int64_t batch) const { return stack_->make_states(batch); }

  torch::Tensor prior(const torch::Tensor& d);          ///< logits of the next code
  torch::Tensor reward_logits(const torch::Tensor& d);  ///< [..., reward_bins]
  torch::Tensor end_logits(const torch::Tensor& d);     ///< [...]
  torch::Tensor reward(const torch::Tensor& d) { return two_hot_.decode(reward_logits(d)); }

  /// Squared error of observations, cross-entropies of rewards and ends, and KL between the code that follows and what
  /// was foretold, both ways. `seed` of the codes.
  WorldLoss loss(const WorldBatch& batch, uint64_t seed);

  const WorldModelConfig& config() const { return config_; }
  /// Numbers of a flattened code.
  int64_t code_size() const { return config_.categoricals * config_.classes; }

 private:
  torch::Tensor codes_of(const torch::Tensor& flat) const;

  WorldModelConfig config_;
  nn::TwoHot two_hot_;
  torch::nn::Sequential encoder_, decoder_, stem_, prior_, reward_, end_;
  MixerStack stack_{nullptr};
  nn::Norm norm_{nullptr};
};
TORCH_MODULE(WorldModel);

}  // namespace heed
