// The geometry every flash entry shares: which sequences there are, which head reads which, the scale.
#pragma once

#include <algorithm>
#include <cmath>

#include "heed/kernels/flash.h"
#include "heed/kernels/variant.h"

namespace heed::kernels {

/// One sequence: its place in the tensors and the batch index that masks, scores and dropout see.
struct Sequence {
  int64_t tensor_batch = 0;  ///< index into q, k, v, out, lse
  int64_t index = 0;         ///< batch index of masks, scores, dropout
  int64_t q_begin = 0, num_queries = 0;
  int64_t k_begin = 0, num_keys = 0;
};

inline int64_t count_sequences(const FlashParams& p) { return p.cu_q != nullptr ? p.num_sequences : p.q.size[0]; }

inline Sequence sequence_at(const FlashParams& p, int64_t s) {
  if (p.cu_q != nullptr) return {0, s, p.cu_q[s], p.cu_q[s + 1] - p.cu_q[s], p.cu_k[s], p.cu_k[s + 1] - p.cu_k[s]};
  return {s, s,
          0, p.q_lengths != nullptr ? p.q_lengths[s] : p.q.size[2],
          0, p.k_lengths != nullptr ? p.k_lengths[s] : p.k.size[2]};
}

inline MaskScope scope_of(const Sequence& s, int64_t head) { return {s.index, head, s.num_queries, s.num_keys}; }

inline int64_t key_head(const FlashParams& p, int64_t h) {
  return p.q_to_k_head != nullptr ? p.q_to_k_head[h] : h * p.k.size[1] / p.q.size[1];
}
inline int64_t value_head(const FlashParams& p, int64_t h) {
  return p.q_to_v_head != nullptr ? p.q_to_v_head[h] : h * p.v.size[1] / p.q.size[1];
}

inline double scale_of(const FlashParams& p) {
  return p.scale != 0 ? p.scale : 1.0 / std::sqrt(static_cast<double>(p.q.size[3]));
}

/// Added to the logit of a sigmoid when the caller gives no bias.
inline double default_sigmoid_bias(const Sequence& s) {
  return -std::log(static_cast<double>(std::max<int64_t>(s.num_keys, 1)));
}

/// Keys of row i that the mask and the block list leave; a variant's own rule does not count.
int64_t visible_keys(const FlashParams& p, const Sequence& s, int64_t head, int64_t i);

/// gamma of clipped softmax for row i.
inline double gamma_of(const FlashParams& p, const Sequence& s, int64_t head, int64_t i) {
  const Normalizer& n = p.normalizer;
  return n.gamma_per_key ? n.gamma / static_cast<double>(std::max<int64_t>(1, visible_keys(p, s, head, i))) : n.gamma;
}

/// The key blocks of query block `block`, head h, batch b: an index into `offsets`.
inline int64_t list_row(const BlockList& list, int64_t b, int64_t h, int64_t block) {
  const int64_t lb = list.batch == 1 ? 0 : b, lh = list.heads == 1 ? 0 : h;
  return (lb * list.heads + lh) * list.query_blocks + block;
}

/// Throws heed::Error where a gradient does not fit the tensor it belongs to.
void check(const FlashParams& params, const FlashGrads& grads);
void check(const FlashParams& params, const Variant& variant);
void check(const FlashParams& params, const Variant& variant, const FlashGrads& grads);

}  // namespace heed::kernels
