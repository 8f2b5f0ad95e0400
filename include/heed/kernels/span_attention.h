// Softmax attention of every query to a few runs of keys of its own, each run a softmax of its own.
#pragma once

#include <cstdint>

#include "heed/kernels/view.h"

namespace heed::kernels {

/// For run r of query i: out_ir = softmax(scale q_i k_j) v_j over begins_ir <= j < ends_ir, lse_ir its log-sum. An
/// empty run (ends <= begins) gives 0 and -inf. All tensors are float32 or all float64, their last dimensions dense;
/// query head h reads KV head h * Hk / Hq.
struct SpanParams {
  AnyView q;                         ///< [B, Hq, N, D]
  AnyView k, v;                      ///< [B, Hk, M, D], [B, Hk, M, Dv]
  View<const int32_t> begins, ends;  ///< [B, Hq, N, R], in [0, M] where not empty
  const uint8_t* hidden = nullptr;   ///< [B, M] with rows of hidden_stride, optional: keys that nobody sees
  int64_t hidden_stride = 0;
  AnyView out;       ///< [B, Hq, N, R * Dv], overwritten
  AnyView lse;       ///< [B, Hq, N, R], overwritten
  double scale = 0;  ///< 0: 1 / sqrt(D)
};

/// Gradients of sum(out * d_out) + sum(lse * d_lse); d_q, d_k, d_v are overwritten.
struct SpanGrads {
  AnyView d_out, d_lse;  ///< in, of the shapes of out and lse
  AnyView d_q, d_k, d_v;
};

void check(const SpanParams& params);
void span_attention(const SpanParams& params);
/// `params.out` and `params.lse` hold the forward's results. KV heads run in parallel.
void span_attention_backward(const SpanParams& params, const SpanGrads& grads);

namespace reference {
void span_attention(const SpanParams& params);
void span_attention_backward(const SpanParams& params, const SpanGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
