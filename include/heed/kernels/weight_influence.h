// What a loss would change by if single attention weights were masked, summed over blocks: the N x M map never exists.
#pragma once

#include "heed/kernels/flash.h"

namespace heed::kernels {

/// With g = dLoss/dP = d_out v^T, masking key j in row i and renormalising the rest changes a loss that is linear in
/// out by E_ij = P_ij / (1 - P_ij) * (sum_k g_ik P_ik - g_ij); a row's only visible key by -g_ij P_ij. Weights of 0
/// have no influence. MoA, arXiv 2406.14909.
struct WeightInfluence {
  AnyView d_out;  ///< [B, Hq, N, Dv], dtype of q
  int64_t query_block = 64, key_block = 64;
  double epsilon = 1e-6;  ///< 1 - P counts as at least this: float logits leave no more of it
  bool magnitude = true;  ///< sums of |E|; false: of E
  AnyView influence;      ///< float (double when q is f64) [B, Hq, query blocks, key blocks], overwritten
};

void check(const FlashParams& params, const WeightInfluence& influence);

/// `params.lse` holds the forward's; out is not read. Plain softmax (a sink may join it), without multiplier, dropout
/// or packed sequences. Two passes over the visible tiles, because the mean of g from a rounded output would drown
/// small differences. Extra memory: a few tiles and a row of blocks a thread.
void weight_influence(const FlashParams& params, const WeightInfluence& influence);

namespace reference {
void weight_influence(const FlashParams& params, const WeightInfluence& influence);
}  // namespace reference

}  // namespace heed::kernels
