// Row and column functionals of the attention map from q, k and lse, tile by tile: the N x M map never exists.
#pragma once

#include "heed/kernels/flash.h"

namespace heed::kernels {

/// Outputs with null data are not computed. P = exp(s - lse) with the params' scores and mask; all outputs are float
/// (double for f64) and overwritten.
struct AttnStats {
  AnyView column_sum;   ///< [B, Hq, 1, M]: sum over query rows [row_begin, row_end) of P
  AnyView entropy;      ///< [B, Hq, N, 1]: -sum_j P log P (nats; the sink counts as one outcome when present)
  AnyView distance;     ///< [B, Hq, N, 1]: sum_j P |i' - j|
  AnyView segment_mass; ///< [B, Hq, N, S]: sum of P over keys of each segment
  const int32_t* segments = nullptr;  ///< [M] segment of each key, in [0, S); -1: none
  AnyView max_weight;   ///< [B, Hq, N, 1]
  int64_t row_begin = 0, row_end = -1; ///< rows that count for column_sum; -1: N
};

/// `params.lse` holds the forward's lse; v and out are not read.
void attn_stats(const FlashParams& params, const AttnStats& stats);

/// The weights of chosen query rows: rows [R] indices into N; weights [B, Hq, R, M] float, overwritten.
/// `params.lse` is the forward's lse for all N rows.
void attention_weights(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights);
/// Gradients of sum(weights * d_weights) to q [B, Hq, N, D], k and lse; lse is an input, so P = exp(s - lse).
void attention_weights_backward(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights,
                                const AnyView& d_weights, const AnyView& d_q, const AnyView& d_k, const AnyView& d_lse);

namespace reference {
void attn_stats(const FlashParams& params, const AttnStats& stats);
void attention_weights(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights);
void attention_weights_backward(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights,
                                const AnyView& d_weights, const AnyView& d_q, const AnyView& d_k, const AnyView& d_lse);
}  // namespace reference

}  // namespace heed::kernels
