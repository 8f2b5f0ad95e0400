// Linear attention with a recurrent state on torch tensors: causal by chunks, non-causal, and with given coefficients.
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::ops {

struct LinearChunkOptions {
  double scale = 1.0;                       ///< of q
  bool normalize = false;                   ///< divide by q_t sum_s (decayed k_s), where that is above eps
  double eps = 1e-6;                        ///< the least denominator
  int64_t chunk = 64;                       ///< tokens of a chunk, 1 to 512; changes speed and rounding alone
  std::optional<torch::Tensor> cu_seqlens;  ///< int [S + 1]: packed sequences (B = 1), each with a state of its own
  int64_t segment = 0;                      ///< tokens that threads take side by side; 0: of a lone head alone
};

struct LinearChunkOutput {
  torch::Tensor out;    ///< [B, H, T, Dv], dtype of q
  torch::Tensor state;  ///< after the last token, [B, H, Dk, Dv] ([S, ...] packed); float32, of float64 calls float64
};

/// out_t = scale q_t S_t, S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t; heed/kernels/linear_chunk.h has the papers.
/// q [B, Hq, T, Dk], k [B, Hk, T, Dk], v [B, Hv, T, Dv] of float32, bfloat16, float16 or float64; H is the largest
/// number of heads and the others divide it: a head is shared by neighbours.
/// `log_decay`, at most 0: absent, [Hg], [B, Hg, T] or [B, Hg, T, Dk]. `initial_state` [B, H, Dk, Dv].
/// With `normalize` states have Dv + 1 columns, of which the last sums keys: the denominator's; q and k must not be
/// negative. Differentiable once in every tensor, `state` included. Throws heed::Error for what does not fit.
LinearChunkOutput linear_chunk(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                               const std::optional<torch::Tensor>& log_decay = {},
                               const std::optional<torch::Tensor>& initial_state = {},
                               const LinearChunkOptions& options = {});

/// out_i = q_i sum_j k_j^T v_j, divided by max(q_i sum_j k_j, eps) with `normalize`. q [B, Hq, N, Dk], k [B, Hk, M,
/// Dk], v [B, Hv, M, Dv] (heads as above); `key_padding` bool [B, M], true = seen by nobody. Plain matrix products,
/// differentiable any number of times.
torch::Tensor linear_noncausal(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                               const std::optional<torch::Tensor>& key_padding = {}, bool normalize = false,
                               double eps = 1e-6);

/// What takes the place of decays when their products are not what a mechanism weighs pairs by (Titans, arXiv
/// 2501.00663). The T tokens are chunks of C, the last of which may be shorter; N = ceil(T / C). Hc divides the heads.
/// A batch of 1, and 1 in the place of T or N, is one for all.
struct LinearCoefficients {
  torch::Tensor pairs;   ///< [B, Hc, T, C]: weight of a token of the same chunk in a token's output; later ones ignored
  torch::Tensor reads;   ///< [B, Hc, T]: of the state before the chunk in the output of a token
  torch::Tensor writes;  ///< [B, Hc, T]: of a token in the state after its chunk
  torch::Tensor carries;  ///< [B, Hc, N]: of the state before a chunk in that after it
};

/// In every chunk, with S the state before it: out = diag(reads) q S + (tril(q k^T) * pairs) v, and the state after it
/// is carries S + k^T diag(writes) v. q, k, v, `initial_state`, heads and dtypes as linear_chunk; C is 1 to 512.
/// Differentiable once in every tensor. Throws heed::Error for what does not fit.
LinearChunkOutput linear_coefficients(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                                      const LinearCoefficients& coefficients,
                                      const std::optional<torch::Tensor>& initial_state = {});

}  // namespace heed::ops
