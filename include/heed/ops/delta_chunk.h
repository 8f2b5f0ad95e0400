// The delta rule on torch tensors.
#pragma once

#include "heed/ops/linear_chunk.h"

namespace heed::ops {

struct DeltaChunkOptions {
  double scale = 1.0;                       ///< of q
  int64_t chunk = 64;                       ///< tokens of a chunk, 1 to 512; changes speed and rounding alone
  std::optional<torch::Tensor> cu_seqlens;  ///< int [S + 1]: packed sequences (B = 1), each with a state of its own
};

using DeltaChunkOutput = LinearChunkOutput;

/// out_t = scale q_t S_t, S_t = a S_{t-1} + k_t^T beta_t (v_t - a k_t S_{t-1}), a = exp(log_decay_t);
/// heed/kernels/delta_chunk.h has the papers. Tensors, heads and dtypes as in linear_chunk; beta [B, Hb, T];
/// `log_decay`, at most 0: absent, [Hg] or [B, Hg, T]. Keys are taken as they are: normalise them before.
/// Differentiable once in every tensor, `state` included. Throws heed::Error for what does not fit.
DeltaChunkOutput delta_chunk(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                             const torch::Tensor& beta, const std::optional<torch::Tensor>& log_decay = {},
                             const std::optional<torch::Tensor>& initial_state = {},
                             const DeltaChunkOptions& options = {});

}  // namespace heed::ops
