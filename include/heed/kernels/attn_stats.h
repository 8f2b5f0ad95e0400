// Row and column functionals of the attention map from q, k and lse, tile by tile: the N x M map never exists.
#pragma once

#include "heed/kernels/flash.h"

namespace heed::kernels {

// Everything here is about P = exp(s - lse), the softmax weights over the params' scores and mask, before clipping,
// multiplier and dropout. A row whose lse is -inf has weight 0 everywhere. `params.lse` holds the forward's lse; v and
// out are not read and may be left out; the sigmoid normaliser, which has no lse, is refused. All tensors beside q and
// k are float (double when q is f64).

/// Outputs with null data are not computed, the others are overwritten; rows beyond a sequence's length get 0.
struct AttnStats {
  AnyView column_sum;    ///< [B, Hq, 1, M]: sum over query rows [row_begin, row_end) of P
  AnyView diagonal_sum;  ///< [B, Hq, 1, M]: over the same rows, sum of P with i' - j = entry; j > i' left out
  AnyView entropy;       ///< [B, Hq, N, 1]: -sum P log P, in nats; the sink counts as one outcome
  AnyView distance;      ///< [B, Hq, N, 1]: sum_j P |i' - j|
  AnyView segment_mass;  ///< [B, Hq, N, S]: sum of P over the keys of each segment
  const int32_t* segments = nullptr;    ///< [M] segment of each key, in [0, S); -1: none
  AnyView max_weight;                   ///< [B, Hq, N, 1]: the largest P of a key
  int64_t row_begin = 0, row_end = -1;  ///< rows (indices into N) that count for both sums; -1: N
};

/// One pass over the visible tiles. Extra memory grows with M (column and diagonal sums) and S, not with N * M; those
/// sums are reduced in a fixed order, so that threads do not change them.
void attn_stats(const FlashParams& params, const AttnStats& stats);

/// Writes params.lse alone, for those who want statistics of rows that no forward has seen: q may be the last rows of a
/// prompt. v and out are not read.
void attention_lse(const FlashParams& params);

/// The weights of chosen query rows: rows [R] are indices into N, in any order; weights [B, Hq, R, M], overwritten,
/// dense last dimension. Runs of consecutive rows are fastest.
void attention_weights(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights);

/// Gradients of sum(weights * d_weights), overwritten; those with null data are not computed. d_q [B, Hq, N, D] and
/// d_k [B, Hk, M, D] have the dtype of q, d_lse is [B, Hq, N, 1]: lse is an input, so d_lse = -sum_j d_weights P.
/// `weights` holds the forward's result, with the strides' last dimension dense, as in d_weights.
void attention_weights_backward(const FlashParams& params, const int64_t* rows, int64_t num_rows,
                                const AnyView& weights, const AnyView& d_weights, const AnyView& d_q,
                                const AnyView& d_k, const AnyView& d_lse);

namespace reference {
void attn_stats(const FlashParams& params, const AttnStats& stats);
void attention_weights(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights);
void attention_weights_backward(const FlashParams& params, const int64_t* rows, int64_t num_rows,
                                const AnyView& weights, const AnyView& d_weights, const AnyView& d_q,
                                const AnyView& d_k, const AnyView& d_lse);
}  // namespace reference

}  // namespace heed::kernels
