// Attention to tuples of tokens: softmax over sum_c q_c k1_c k2_c .. / D, values v1 * v2 * .. (arXiv 2310.04064). Pairs
// are the third order, the query being one of three.
#pragma once

#include <torch/torch.h>

#include <vector>

namespace heed::exact {

/// What the members of a tuple are chosen from: one tensor a member, one fewer than the order.
struct TupleKeys {
  std::vector<torch::Tensor> k;  ///< [B, H, M, D]
  std::vector<torch::Tensor> v;  ///< [B, H, M, Dv]
  torch::Tensor hidden;          ///< bool [B, M], undefined: none
};

/// q [B, H, N, D] -> [B, H, N, Dv] over all tuples, of which a causal query sees those of tokens up to its own; the
/// last query sits on the last key. A few first tokens at a time; the backward computes them again. Queries that see
/// nothing get 0.
torch::Tensor tuple_attention(const torch::Tensor& q, const TupleKeys& keys, bool causal);

/// Monomials x^a of degree up to `degree` of x [..., D]: [..., C(D + degree, degree)], by degree. With `taylor` times
/// 1 / (a! D^|a|), so that the product of features of q and of the keys of a tuple, summed, is the Taylor polynomial of
/// exp(S).
torch::Tensor monomials(const torch::Tensor& x, int64_t degree, bool taylor);

/// The same attention with that polynomial in the place of exp. `sums`, one a member of a tuple: what was seen so far,
/// [B, H, r, Dv + 1], which a causal call goes on from and leaves behind; undefined: nothing seen.
torch::Tensor polynomial_tuple_attention(const torch::Tensor& q, const TupleKeys& keys, int64_t degree, bool causal,
                                         std::vector<torch::Tensor>& sums);

}  // namespace heed::exact
