// Causal softmax attention in two levels: the last key of every block, its landmark, stands for the block.
#pragma once

#include <cstdint>

#include "heed/kernels/view.h"

namespace heed::kernels {

/// Keys of a block, its landmark included, at most.
inline constexpr int64_t kMostGroupedKeys = 256;

/// Query i stands at place M - N + i. Its softmax is over the keys of its own block up to that place, without the
/// landmark, and the landmarks of earlier blocks; the weight of a landmark is shared out over the other keys of its
/// block by a softmax over these. Values of landmarks are never read. A block whose landmark or whose other keys are
/// all hidden has no weight. Query head h reads KV head h * Hk / Hq.
struct GroupedParams {
  AnyView q;                        ///< [B, Hq, N, D] of f32, f16, bf16 (the reference also takes f64), dense rows
  AnyView k, v;                     ///< [B, Hk, M, D], [B, Hk, M, Dv], M at least N
  AnyView out;                      ///< [B, Hq, N, Dv], overwritten; 0 where nothing is seen
  AnyView lse;                      ///< float (double) [B, Hq, N, 1], overwritten: of the softmax over the landmarks
  int64_t block = 64;               ///< 2 to kMostGroupedKeys, the landmark included
  double scale = 0;                 ///< 0: 1 / sqrt(D)
  double softcap = 0;               ///< c > 0: logits become c tanh(s / c)
  const uint8_t* hidden = nullptr;  ///< [B, M] with rows of hidden_stride, optional: keys that nobody sees
  int64_t hidden_stride = 0;
};

/// Gradients of sum(out * d_out), of the dtypes of q, k, v; overwritten.
struct GroupedGrads {
  AnyView d_out;
  AnyView d_q, d_k, d_v;
};

/// Throws heed::Error naming what does not fit. Called by every entry below.
void check(const GroupedParams& params);

void grouped_attention(const GroupedParams& params);
/// `params.out` and `params.lse` hold the forward's results. KV heads run in parallel.
void grouped_attention_backward(const GroupedParams& params, const GroupedGrads& grads);

namespace reference {
void grouped_attention(const GroupedParams& params);
void grouped_attention_backward(const GroupedParams& params, const GroupedGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
