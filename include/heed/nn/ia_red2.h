// Tokens that a policy finds redundant leave a vision transformer for good (IA-RED^2, arXiv 2106.12620).
#pragma once

#include <memory>
#include <vector>

#include "heed/nn/token_reducer.h"

namespace heed::nn {

struct IaRed2Config {
  int64_t dim = 64, heads = 4;  ///< of the tokens, and of the interpreter
  double threshold = 0.5;       ///< in evaluation, tokens of at least this score stay
  double first_score = 0.95;    ///< about what every token scores before training
  double penalty = 1;           ///< tau: a wrong answer earns -tau
  double reward_weight = 1;     ///< of the policy's loss in training; 0: it stays as it is
};

/// The multi-head interpreter of one group of layers, and the choice that follows from its scores. In training a token
/// stays with the probability that is its score; in evaluation where that is at least the threshold.
class IaRed2 : public TokenReducer {
 public:
  explicit IaRed2(const IaRed2Config& config);

  /// I [B, N] in (0, 1) of x [B, N, C]: the mean over heads of sigmoid(F_q(P) . F_k(x)), P learned. Differentiable;
  /// also a map of what counts.
  torch::Tensor scores(const torch::Tensor& x);
  /// bool [B, N]: drawn from the scores by `seed`, or the greedy choice. Leading tokens stay, padding goes.
  torch::Tensor drawn(const torch::Tensor& scores, const ReductionInput& input) const;
  torch::Tensor greedy(const torch::Tensor& scores, const ReductionInput& input) const;

  TokenMap map(const ReductionInput& input) override;
  bool before_layer() const override { return true; }

  /// What the last `map` chose, [B] each.
  struct Choice {
    torch::Tensor kept;            ///< float: the share of what could go that stays; 1 where nothing could
    torch::Tensor log_likelihood;  ///< of what was drawn in training, with a gradient; else undefined
  };
  const Choice& choice() const { return choice_; }
  const IaRed2Config& config() const { return config_; }

 private:
  IaRed2Config config_;
  Choice choice_;
  torch::nn::Linear query_{nullptr}, key_{nullptr};
  torch::Tensor policy_;  // [dim]
};

/// The tokens [B, N] that stay, as a map with as many tokens as the longest item, the others' rest hidden.
TokenMap ragged_tokens(const torch::Tensor& stays, const torch::Tensor& sizes);

/// Sum over the tokens that could go of log pi(u): u where drawn, 1 - u elsewhere. scores and stays [B, N] -> [B].
torch::Tensor policy_log_likelihood(const torch::Tensor& scores, const torch::Tensor& stays,
                                    const ReductionInput& input);

/// 1 - (kept share)^2 where the prediction is right, else -penalty: [B]. Of several predictions of an item `right` may
/// be the share that is right.
torch::Tensor redundancy_reward(const torch::Tensor& kept_share, const torch::Tensor& right, double penalty = 1);

/// -mean((reward - baseline) log pi): its gradient is REINFORCE's with the greedy choice as a baseline (self-critical).
torch::Tensor policy_loss(const torch::Tensor& log_likelihood, const torch::Tensor& reward,
                          const torch::Tensor& greedy_reward);

/// The policies within `model` that are to learn.
std::vector<std::shared_ptr<IaRed2>> learning_policies(torch::nn::Module& model);

}  // namespace heed::nn
