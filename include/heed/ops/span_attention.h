// Attention of every query to runs of keys of its own, differentiable.
#pragma once

#include <torch/torch.h>

namespace heed::ops {

struct SpanResult {
  torch::Tensor out;  ///< [B, Hq, N, R, Dv]
  torch::Tensor lse;  ///< [B, Hq, N, R], differentiable; -inf where the run is empty
};

/// Run r of a query is a softmax of its own over keys begins to below ends, int32 [B, Hq, N, R]; none where they are
/// not below. q [B, Hq, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv]; float32 (what is narrower is widened) or float64.
/// `scale` 0: 1 / sqrt(D). Keys where `hidden` bool [B, M] is true (undefined: none) are seen by nobody.
SpanResult span_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                          const torch::Tensor& begins, const torch::Tensor& ends, double scale = 0,
                          const torch::Tensor& hidden = {});

}  // namespace heed::ops
