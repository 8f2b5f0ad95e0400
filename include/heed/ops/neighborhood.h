// Attention to windows of a token grid on torch tensors: fused, and with its weights written out.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "heed/kernels/neighborhood.h"

namespace heed::ops {

/// A grid of one to three axes and what a token sees of it, as heed/kernels/neighborhood.h says. Of window, stride,
/// dilation and causal one value stands for all axes.
struct NeighborhoodOptions {
  std::vector<int64_t> grid;                 ///< cells an axis, the last fastest
  std::vector<int64_t> window;               ///< visible cells an axis
  std::vector<int64_t> stride{1};            ///< neighbours that share a window
  std::vector<int64_t> dilation{1};          ///< steps between visible cells
  std::vector<bool> causal{false};           ///< no later cell along the axis
  double scale = 0;                          ///< 0: 1 / sqrt(D)
  double softcap = 0;                        ///< c > 0: c tanh(s / c)
  std::optional<torch::Tensor> sink_logit;   ///< [Hq]: one more key of value 0
  std::optional<torch::Tensor> key_padding;  ///< bool [B, M], true = seen by nobody
};

/// Throws heed::Error for axes that do not fit each other.
kernels::Neighborhood neighborhood_of(const NeighborhoodOptions& options);

struct NeighborhoodOutput {
  torch::Tensor out;  ///< [B, Hq, N, Dv], dtype of q
  torch::Tensor lse;  ///< [B, Hq, N]; float32, of float64 calls float64
};

/// Exact softmax attention of every cell to its window. q [B, Hq, N, D], k [B, Hk, M, D], v [B, Hv, M, Dv] of float32,
/// bfloat16, float16 or float64; N is the product of the grid and keys beyond N (M > N) are tokens that every query
/// sees. Differentiable once in q, k, v and sink_logit. Throws heed::Error for what does not fit.
NeighborhoodOutput neighborhood(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                                const NeighborhoodOptions& options);

/// The scores alone: [B, Hq, N, W] = scale <q_i, k_j> for the W = prod(window) keys of every window, the last axis
/// fastest; -inf where a causal window is shorter. float32 (float64 of float64). Of the options the axes and the scale
/// are used. Differentiable once in q and k.
torch::Tensor neighborhood_qk(const torch::Tensor& q, const torch::Tensor& k, const NeighborhoodOptions& options);

/// out [B, H, N, Dv], dtype of v: values v [B, Hv, N, Dv] summed by weights [B, H, N, W] of the same order. Weights
/// that stand for no key count nothing. Differentiable once in both.
torch::Tensor neighborhood_av(const torch::Tensor& weights, const torch::Tensor& v, const NeighborhoodOptions& options);

/// Which of the prod(2 w - 1) relative positions (key minus query, in steps of the dilation, the last axis fastest)
/// each entry of a band is: int64 [N, W]; any of them where there is no key. `widest`: windows, at least those of the
/// options, to count positions for; empty: the options'.
torch::Tensor neighborhood_offsets(const NeighborhoodOptions& options, const std::vector<int64_t>& widest = {});

}  // namespace heed::ops
