// A memory that is the weights of a small network, trained online to return a token's value for its key
// (Titans, arXiv 2501.00663).
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::linear {

struct NeuralMemoryConfig {
  int64_t dim = 64, heads = 4;
  int64_t layers = 2;         ///< of the memory: 1 is a matrix
  int64_t expand = 4;         ///< inner width of a deeper memory, in head sizes
  int64_t chunk = 16;         ///< tokens whose gradients are taken at the same weights
  int64_t conv = 4;           ///< tokens of the short convolutions of q, k and v
  double largest_step = 0.1;  ///< theta is this times a sigmoid
  bool momentum = true, forgetting = true;
  std::string activation = "gelu";  ///< between the layers of the memory: gelu or silu
  bool residual = false;            ///< M(x) = x + LayerNorm(f(x)) of the layers f

  static NeuralMemoryConfig read(ConfigReader& reader);
  int64_t head_dim() const { return dim / heads; }
};

std::vector<Parameter> neural_memory_parameters();

/// What of a memory stays as it is while it learns.
struct MemoryForm {
  bool silu = false;         ///< between the layers; else gelu
  torch::Tensor gain, bias;  ///< [H, 1, d] of the LayerNorm of M(x) = x + LayerNorm(f(x)); undefined: M = f
};

/// Weights and momenta of every layer, [B, H, in, out].
struct MemoryWeights {
  std::vector<torch::Tensor> weights, momenta;
};

/// What decides how gradients move the weights, [B, H, T]: step sizes, momentum, forgetting; `keep` 0 leaves a token
/// out.
struct MemoryGates {
  torch::Tensor theta, eta, alpha, keep;
};

/// Sums of the updates of a chunk, from its gates: the weights behind token t are
/// carry_t W + carried_t S - sum_{j <= t} pairs_tj theta_j grad_j, and the momenta behind the last token
/// fade S - sum_j last_j theta_j grad_j.
struct MemoryCoefficients {
  torch::Tensor carry, carried, pairs;  ///< [..., C], [..., C], [..., C, C]
  torch::Tensor fade, last;             ///< [...], [..., C]
};
MemoryCoefficients memory_coefficients(const MemoryGates& gates);

/// Reads queries q behind every token of one chunk (the own write included) and moves `memory` to its end.
/// q, k, v [B, H, C, d]; gradients are those of |M(k) - v|^2 at the weights of the chunk's start, written as tensor
/// operations, so that a gradient runs through them.
torch::Tensor memory_chunk(MemoryWeights& memory, const torch::Tensor& q, const torch::Tensor& k,
                           const torch::Tensor& v, const MemoryGates& gates, const MemoryForm& form = {});

/// M(q) of fixed weights.
torch::Tensor memory_read(const std::vector<torch::Tensor>& weights, const torch::Tensor& q,
                          const MemoryForm& form = {});

class NeuralMemoryImpl : public torch::nn::Module {
 public:
  explicit NeuralMemoryImpl(const NeuralMemoryConfig& config);

  /// What the memory returns for every token of x [B, N, C], [B, N, C]; it learns x. `before` tokens came first.
  /// Uses slots [first_slot, first_slot + slots()).
  torch::Tensor forward(RecurrentCall& call, size_t first_slot, const torch::Tensor& x, int64_t before,
                        const std::optional<torch::Tensor>& padding);
  /// What the weights at the start of the newest chunk return for tokens x, which they don't learn.
  torch::Tensor recall(RecurrentCall& call, size_t first_slot, const torch::Tensor& x);
  size_t slots() const { return 2 * static_cast<size_t>(config_.layers) + 4; }

  const NeuralMemoryConfig& config() const { return config_; }

 private:
  MemoryWeights weights_of(RecurrentCall& call, size_t first_slot, int64_t batch);

  NeuralMemoryConfig config_;
  MemoryForm form_;
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, gate_proj_{nullptr};
  nn::ShortConv q_conv_{nullptr}, k_conv_{nullptr}, v_conv_{nullptr};
  std::vector<torch::Tensor> start_;  // [H, in, out] a layer
};
TORCH_MODULE(NeuralMemory);

}  // namespace heed::linear
