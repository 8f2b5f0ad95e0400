// The core of Mamba-1, one a direction: steps, inputs and outputs of a diagonal state-space model, read from its
// tokens.
#pragma once

#include <torch/torch.h>

#include <optional>

#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::linear {

/// Sizes of a mixer around a selective state-space model.
struct SelectiveSizes {
  int64_t dim = 64, expand = 2, state_dim = 16;
  int64_t step_rank = 0;  ///< ceil(dim / 16) unless given

  /// Reads its keys; the caller finishes the reader.
  static SelectiveSizes read(ConfigReader& reader);
  int64_t inner() const { return expand * dim; }
};

/// The parameters of SelectiveSizes, then `own`.
std::vector<Parameter> selective_parameters(std::vector<Parameter> own);

/// [count] whose softplus is log-uniform from 1e-3 to 0.1: where steps start.
torch::Tensor initial_step_bias(int64_t count);

/// Uniform in +-1 / sqrt(inputs), as the authors have it: with the smaller weights of attention, models of few channels
/// would begin with next to nothing of the state beside the skip.
torch::nn::Linear wide_projection(torch::nn::Linear projection);

struct SelectiveSsmConfig {
  int64_t channels = 128;  ///< D of a direction
  int64_t state_dim = 16;  ///< N
  int64_t step_rank = 8;   ///< R, of the projection to steps
  int64_t directions = 1;  ///< K, each with weights of its own
};

/// S6 (arXiv 2312.00752): [dt, B, C] = W_x x, Delta = softplus(W_dt dt + b_dt), A = -exp(a_log), y = scan + skip x,
/// times silu(z) where z is given.
class SelectiveSsmImpl : public torch::nn::Module {
 public:
  explicit SelectiveSsmImpl(const SelectiveSsmConfig& config);

  /// x [B, N, K, D] -> the same. `hidden`, bool [B, N, K]: tokens that neither write nor let time pass. `state`
  /// [B, K D, N] becomes the final one; undefined: zero; null: not asked for.
  torch::Tensor forward(const torch::Tensor& x, const std::optional<torch::Tensor>& z = {},
                        const std::optional<torch::Tensor>& hidden = {}, torch::Tensor* state = nullptr,
                        const std::optional<torch::Tensor>& cu_seqlens = {});

 private:
  SelectiveSsmConfig config_;
  torch::Tensor x_proj_, step_proj_;        ///< [K, R + 2 N, D], [K, D, R]
  torch::Tensor step_bias_, a_log_, skip_;  ///< [K D], [K D, N], [K D]
};
TORCH_MODULE(SelectiveSsm);

}  // namespace heed::linear
