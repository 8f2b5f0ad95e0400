// Tiled exact attention, forward and backward, over masks, scores, normalisers and block lists given as values.
#pragma once

#include <cstdint>

#include "heed/kernels/block_list.h"
#include "heed/kernels/mask.h"
#include "heed/kernels/scores.h"
#include "heed/kernels/view.h"

namespace heed::kernels {

/// Everything one attention call needs. Plain data; nothing is owned. Conventions: docs/semantics.md.
///
/// For batch b, query head h, query i and key j (k and v heads come from the head maps):
///   s_ij = scale * <q_i, k_j>;  s = softcap(s);  s += bias_ij + alibi_ij;  s /= temperature_i;  masked s = -inf
///   p_ij = normalizer(s)_ij * multiplier_ij * dropout_ij;  out_i = sum_j p_ij v_j;  lse_i = log(sum_j exp(s_ij) [+
///   exp(sink)])
///
/// q, k, v, out share one dtype (f32, f16, bf16; the reference also takes f64). Every other tensor is float
/// (double when q is f64). The last dimension of q, k, v, out must be dense (stride 1).
struct FlashParams {
  AnyView q;    ///< [B, Hq, N, D]
  AnyView k;    ///< [B, Hk, M, D]
  AnyView v;    ///< [B, Hv, M, Dv]
  AnyView out;  ///< [B, Hq, N, Dv], written
  AnyView lse;  ///< [B, Hq, N, 1], written when given; natural logarithm. Sigmoid has none.

  double scale = 0;                      ///< 0: 1 / sqrt(D)
  const int32_t* q_to_k_head = nullptr;  ///< [Hq]; null: h * Hk / Hq
  const int32_t* q_to_v_head = nullptr;  ///< [Hq]; null: h * Hv / Hq

  /// Per batch item: how many of the N queries and M keys exist ([B], null: all). Rows beyond are written 0 / -inf.
  const int64_t* q_lengths = nullptr;
  const int64_t* k_lengths = nullptr;
  /// Packed sequences (B = 1): sequence s owns queries [cu_q[s], cu_q[s+1]) and keys [cu_k[s], cu_k[s+1]).
  /// Masks, positions and dropout use indices inside the sequence and s as batch index. Not together with lengths.
  const int64_t* cu_q = nullptr;
  const int64_t* cu_k = nullptr;
  int64_t num_sequences = 0;

  Mask mask;              ///< default: everything visible
  Scores scores;          ///< soft cap, ALiBi, bias, temperature, multiplier
  Normalizer normalizer;  ///< softmax, with sink, sigmoid, clipped softmax
  Dropout dropout;
  const BlockList* blocks = nullptr;  ///< visit only these key blocks (block_sparse); null: all
};

/// Gradients of sum(out * d_out) + sum(lse * d_lse). Outputs with null data are not computed. Outputs are overwritten.
struct FlashGrads {
  AnyView d_out;           ///< in: [B, Hq, N, Dv], dtype of q
  AnyView d_lse;           ///< in, optional: [B, Hq, N, 1]
  AnyView d_q, d_k, d_v;   ///< shapes and dtype of q, k, v
  AnyView d_bias;          ///< the bias's own (broadcast) shape: summed over its broadcast dimensions
  AnyView d_multiplier;    ///< the multiplier's own shape
  AnyView d_temperature;   ///< shape of temperature
  AnyView d_sink;          ///< [1, Hq, 1, 1]
  AnyView d_sigmoid_bias;  ///< [1, Hq, 1, 1]
};

/// Throws heed::Error naming what does not fit. Called by every entry below.
void check(const FlashParams& params);

void flash_forward(const FlashParams& params);
/// `params.out` and `params.lse` (where the normaliser has one) hold the forward's results.
void flash_backward(const FlashParams& params, const FlashGrads& grads);

/// Pairs of query and key that the mask shows and the block lists visit, over all sequences and query heads. Of the
/// tensors only the shapes are asked.
int64_t visible_pairs(const FlashParams& params);

/// Bytes of scratch the two calls allocate beside their outputs; grows linearly with N and M.
int64_t flash_forward_bytes(const FlashParams& params);
int64_t flash_backward_bytes(const FlashParams& params);

namespace reference {
/// The formula, written out in double: any dtype, any size, O(N * M) time and O(M) memory.
void flash_forward(const FlashParams& params);
void flash_backward(const FlashParams& params, const FlashGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
