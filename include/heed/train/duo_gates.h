// Gates that tell KV heads that need the whole text from those to which sinks and recent tokens are enough
// (DuoAttention, arXiv 2410.10819).
#pragma once

#include <torch/torch.h>

#include <functional>

#include "heed/attention.h"
#include "heed/models/decoder_lm.h"

namespace heed::train {

struct DuoOptions {
  int64_t steps = 2000;
  double learning_rate = 0.02;  ///< peak; the schedule is `duo_rate`
  double lambda = 0.05;         ///< weight of the mean gate in the loss
  int64_t sinks = 128;          ///< first tokens that a streaming head sees
  int64_t recent = 256;         ///< and the last ones, the own one included
  /// Whose full attention a gate weighs. teacher: that of the unchanged model, without gradient, as in the released
  /// code; student: that of the layer's own input, as in the paper.
  enum class FullFrom { teacher, student } full_from = FullFrom::teacher;
};

/// Share of the peak rate at step t of T: up over the first fifth, down over the last, never below 0.1.
double duo_rate(int64_t step, int64_t steps);

/// gate * full + (1 - gate) * attention under sinks and recent window. q [B, Hq, N, D], k and v [B, Hkv, N, D|Dv] after
/// positions, full [B, Hq, N, Dv], gates float [Hkv]: each serves its Hq / Hkv query heads. `scale` and `softcap` are
/// those of the full attention.
torch::Tensor gated_heads(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                          const torch::Tensor& full, const torch::Tensor& gates, const DuoOptions& options,
                          double scale = 0, double softcap = 0);

/// Layers that have gates: plain dense attention. The policy leaves the others alone, too.
std::vector<int64_t> gated_layers(const DecoderConfig& config);

/// Mean over the last `tail` of tokens int64 [B, N], and over channels, of the squared difference between the hidden
/// states after the last norm without and with gates float [L, Hkv]. Differentiable in the gates; rows of layers
/// without gates are not read. Throws heed::Error for ALiBi and T5 positions, which no cache policy serves.
torch::Tensor duo_distance(DecoderLm& model, const torch::Tensor& tokens, int64_t tail, const torch::Tensor& gates,
                           const DuoOptions& options);

struct DuoTraining {
  torch::Tensor gates;  ///< float [L, Hkv], in [0, 1]
  double distance = 0;  ///< mean of the last tenth of the steps
};

/// Gates [layers, heads] that minimise distance + lambda * mean gate, from 1, by AdamW without weight decay, kept in
/// [0, 1]. `distance` must be a pure function of gates and step. Throws heed::Error where it is not finite.
DuoTraining train_gates(int64_t layers, int64_t heads, const DuoOptions& options,
                        const std::function<torch::Tensor(const torch::Tensor& gates, int64_t step)>& distance,
                        const std::function<void(int64_t step, double distance)>& report = {});

/// Tokens int64 [1, N] of a step, of which the last `tail` are labelled.
struct LabelledTokens {
  torch::Tensor tokens;
  int64_t tail = 0;
};

/// Gates [L, Hkv] of a model whose weights stay as they are; 1 in layers without gates.
DuoTraining train_duo_gates(DecoderLm& model, const DuoOptions& options,
                            const std::function<LabelledTokens(int64_t step)>& source,
                            const std::function<void(int64_t step, double distance)>& report = {});

}  // namespace heed::train
