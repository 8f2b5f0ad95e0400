// Mamba's selective scan on torch tensors, with gradients. torch.ops.heed.selective_scan in Python.
#pragma once

#include <torch/torch.h>

#include <optional>

namespace heed::ops {

struct SelectiveScanOptions {
  bool delta_softplus = false;  ///< delta, and its bias, go through softplus (the identity above 20)
  /// int64 [S + 1]: bounds of packed sequences, B = 1; states are then [S, D, N].
  std::optional<torch::Tensor> cu_seqlens;
};

struct SelectiveScanOutput {
  torch::Tensor out;    ///< [B, T, D], dtype of x
  torch::Tensor state;  ///< [B, D, N] (complex: [B, D, N, 2]), float32, or float64 of float64 calls
};

/// h_t = exp(Delta_t A) h_{t-1} + Delta_t x_t B_t, out_t = (C_t h_t + D x_t) silu(z_t) per channel
/// (arXiv 2312.00752; kernels::SelectiveScanParams).
///
/// x, delta and z are [B, T, D], A is [D, N], B and C are [B, T, G, N] (channel d reads group d G / D), D and
/// delta_bias [D], initial_state as the returned state. Complex scans have A [D, N, 2], B and C [B, T, G, N, 2]: real
/// and imaginary parts, every state standing for a conjugate pair, so that C_t h_t is 2 Re of the sum. Any strides;
/// last dimensions that are not dense are copied. Everything is differentiable once, the state too. T = 1 is the step
/// of decoding. Throws heed::Error for what does not fit.
SelectiveScanOutput selective_scan(const torch::Tensor& x, const torch::Tensor& delta, const torch::Tensor& A,
                                   const torch::Tensor& B, const torch::Tensor& C,
                                   const std::optional<torch::Tensor>& D = {},
                                   const std::optional<torch::Tensor>& z = {},
                                   const std::optional<torch::Tensor>& delta_bias = {},
                                   const std::optional<torch::Tensor>& initial_state = {},
                                   const SelectiveScanOptions& options = {});

}  // namespace heed::ops
