// Softmax attention of one query over every prefix, on torch tensors, with gradients. torch.ops.heed.softmax_scan in
// Python.
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::ops {

struct SoftmaxScanOptions {
  /// int64 [S + 1]: bounds of packed sequences, B = 1; states are then [S, H, Dv + 2].
  std::optional<torch::Tensor> cu_seqlens;
};

struct SoftmaxScanOutput {
  torch::Tensor out;    ///< [B, H, T, Dv], dtype of v
  torch::Tensor lse;    ///< [B, H, T], float32, or float64 of float64 calls
  torch::Tensor state;  ///< [B, H, Dv + 2], likewise: largest score m, sum exp(s - m), sum exp(s - m) v
};

/// out_t = sum_{j <= t} softmax_{j <= t}(scores)_j v_j and the log-sum-exp of the scores up to t (arXiv 2405.13956;
/// kernels::SoftmaxScanParams).
///
/// scores [B, Hs, T], v [B, Hv, T, Dv]; one number of heads is a multiple of the other. initial_state as the returned
/// state; nothing seen is (-inf, 0, 0). All three outputs are differentiable once. T = 1 is the step of decoding.
/// Throws heed::Error for what does not fit.
SoftmaxScanOutput softmax_scan(const torch::Tensor& scores, const torch::Tensor& v,
                               const std::optional<torch::Tensor>& initial_state = {},
                               const SoftmaxScanOptions& options = {});

}  // namespace heed::ops
