// Mixers of projections to q, k and v around a linear core, and a projection of the heads' outputs.
#pragma once

#include "mixers/linear/heads_config.h"

namespace heed::linear {

class LinearAttention : public RecurrentMixer {
 public:
  torch::Tensor mix(const CoreInput& in) override;

 protected:
  LinearAttention(std::string name, const HeadsConfig& config);

  torch::Tensor run(RecurrentCall& call) override;
  /// q of x, k and v of x or the memory, with their positions; those that heads share stand once for each.
  Heads project_heads(const RecurrentCall& call);
  /// [B, H, N, head_dim] from q [B, H, N, key_dim], k [B, H, M, key_dim], v [B, H, M, head_dim].
  virtual torch::Tensor attend(RecurrentCall& call, const Heads& heads) = 0;
  /// Changes the heads' outputs, side by side [B, N, H head_dim], before the output projection.
  virtual torch::Tensor before_output(RecurrentCall&, torch::Tensor joined) { return joined; }

  HeadsConfig config_;
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};

 private:
  nn::Positions positions_{nullptr};  // null: none
};

}  // namespace heed::linear
