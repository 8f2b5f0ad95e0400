// Attention of a query to pairs of tokens: the softmax over all pairs, and its Taylor polynomial (arXiv 2310.04064).
#pragma once

#include <torch/torch.h>

namespace heed::exact {

/// Keys and values of both members of a pair, [B, H, M, D] and [B, H, M, Dv]; hidden bool [B, M] or undefined.
struct PairKeys {
  torch::Tensor k1, k2, v1, v2, hidden;
};

/// O_i = sum_jk exp(S_ijk) v1_j v2_k / sum_jk exp(S_ijk), S_ijk = sum_c q_ic k1_jc k2_kc / D. q [B, H, N, D], the last
/// N of the M tokens where `causal`, which then sees pairs of tokens up to its own. A pair is one attention call: the
/// first key times the query asks the second; the log-sum-exps of the calls weigh them. O(N M^2 D) time, nothing of
/// size N x M x M is kept.
torch::Tensor pair_attention(const torch::Tensor& q, const PairKeys& keys, bool causal);

/// Monomials x^a of degree up to `degree` of x [..., D]: [..., C(D + degree, degree)], by degree. With `taylor` times
/// 1 / (a! D^|a|), so that the product of features of q, k1 and k2 summed is the Taylor polynomial of exp(S).
torch::Tensor monomials(const torch::Tensor& x, int64_t degree, bool taylor);

/// The same attention with that polynomial in the place of exp: sums over the tokens seen so far, [B, H, r, Dv + 1]
/// each, which the call goes on from and leaves behind; undefined: nothing seen.
torch::Tensor polynomial_pair_attention(const torch::Tensor& q, const PairKeys& keys, int64_t degree, bool causal,
                                        torch::Tensor& sum1, torch::Tensor& sum2);

}  // namespace heed::exact
