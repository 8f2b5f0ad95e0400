// Products with Toeplitz matrices in T log T, by libtorch's FFT. torch.ops.heed.toeplitz_fft in Python.
#pragma once

#include <torch/torch.h>

namespace heed::ops {

/// y_i = sum_j c(i - j) x_j for every column of x [..., T, D], with gradients of both, of any order; y has
/// the shape and type of x.
///
/// Causal: c [..., T, D or 1] holds the lags i - j = 0 to T - 1. Else c [..., 2 T - 1, D or 1] holds the lags -(T - 1)
/// to T - 1, so that lag 0 stands at T - 1. c has as many dimensions as x, and its leading ones are those of x or 1:
/// coefficients per head are [1, H, T, 1] beside x [B, H, T, D], per channel [1, T, D] beside [B, T, D].
///
/// float32 and float64 are computed in their own precision, 16-bit types in float32. The error of float32 is relative
/// to the largest coefficients, so sums of far smaller ones may be better off in float64.
/// Throws heed::Error for what does not fit.
torch::Tensor toeplitz_fft(const torch::Tensor& c, const torch::Tensor& x, bool causal);

}  // namespace heed::ops
