// An actor and a critic that learn from a world model's imagination (DreamerV3, arXiv 2301.04104; Drama, arXiv
// 2410.08893).
#pragma once

#include <torch/torch.h>

#include "heed/models/world_model.h"

namespace heed::train {

struct ActorCriticOptions {
  int64_t hidden = 64;
  double discount = 0.985, lambda = 0.95, entropy = 3e-4;
  int64_t bins = 63;
  double range = 3;  ///< of symlog returns
};

class ActorCriticImpl : public torch::nn::Module {
 public:
  ActorCriticImpl(const WorldModelConfig& world, ActorCriticOptions options);

  /// Logits of actions where the code is z [..., categoricals, classes] and d [..., dim] remembers what was before.
  torch::Tensor act(const torch::Tensor& z, const torch::Tensor& d);
  torch::Tensor value_logits(const torch::Tensor& z, const torch::Tensor& d);
  torch::Tensor value(const torch::Tensor& z, const torch::Tensor& d) { return values_.decode(value_logits(z, d)); }
  const nn::TwoHot& values() const { return values_; }
  const ActorCriticOptions& options() const { return options_; }

 private:
  torch::Tensor seen(const torch::Tensor& z, const torch::Tensor& d) const;

  ActorCriticOptions options_;
  nn::TwoHot values_;
  torch::nn::Sequential actor_, critic_;
};
TORCH_MODULE(ActorCritic);

/// B rollouts of H steps, without gradient.
struct Imagined {
  torch::Tensor z;        ///< [B, H + 1, categoricals, classes]: where each action is taken, and where the last led
  torch::Tensor d;        ///< [B, H + 1, dim]: what is remembered there
  torch::Tensor actions;  ///< int64 [B, H]
  torch::Tensor rewards;  ///< [B, H]
  torch::Tensor goes_on;  ///< [B, H]: chance that the episode does not end with the action
};

/// Reads codes of `steps` with their actions, all but the last action, and goes on from the last observation by the
/// agent's actions: one prefill, then one step of a state of fixed size for each action. The codes and actions of step
/// t of item b depend on the seed, t and the batch.
Imagined imagine(WorldModel& model, ActorCritic& agent, const WorldBatch& steps, const torch::Tensor& padding,
                 int64_t horizon, uint64_t seed);

/// R_t = r_t + g c_t ((1 - lambda) V_{t+1} + lambda R_{t+1}), R_H = V_H: [B, H] of rewards and goes_on [B, H] and
/// values [B, H + 1].
torch::Tensor lambda_returns(const torch::Tensor& rewards, const torch::Tensor& goes_on, const torch::Tensor& values,
                             double discount, double lambda);

/// Policy gradient with normalised advantages and entropy, plus cross-entropy of the critic, weighted by the chance
/// that a step is reached.
torch::Tensor actor_critic_loss(ActorCritic& agent, const Imagined& imagined);

}  // namespace heed::train
