// The multi-dimensional damped moving average of Mega: a few decaying sums a channel.
#pragma once

#include <torch/torch.h>

namespace heed::linear {

/// With p = sigmoid(delta) and a = sigmoid(alpha) per channel and dimension n of N (arXiv 2209.10655):
///   h_t = (1 - p a) h_{t-1} + p beta x_t,   y_t = sum_n gamma h_t / sqrt(N) + omega x_t.
class DampedEmaImpl : public torch::nn::Module {
 public:
  /// `bidirectional`: a second set of sums runs backwards from the next token on.
  DampedEmaImpl(int64_t channels, int64_t dimensions, bool bidirectional);

  /// x [B, T, C] -> the same. `state` [B, C, N] becomes the one after x; undefined: zero; null: a sequence of its own.
  torch::Tensor forward(const torch::Tensor& x, torch::Tensor* state = nullptr);

 private:
  struct Sums {
    torch::Tensor rate, in, out;  ///< [C, N]: log(1 - p a), p beta, gamma / sqrt(N)
  };
  Sums sums(int64_t direction) const;
  torch::Tensor kernel(const Sums& sums, int64_t tokens) const;

  int64_t directions_;
  torch::Tensor delta_, alpha_, beta_, gamma_, omega_;  ///< [directions, C, N], omega [C]
};
TORCH_MODULE(DampedEma);

}  // namespace heed::linear
