// Softmax attention of one query over every prefix of a sequence, as a scan.
#pragma once

#include "heed/kernels/view.h"

namespace heed::kernels {

/// out_t = sum_{j <= t} softmax_{j <= t}(s)_j v_j,   lse_t = log sum_{j <= t} exp(s_j)   (arXiv 2405.13956).
///
/// What has been seen is (m, u, w): the largest score, sum exp(s - m), sum exp(s - m) v, as Dv + 2 floats in this
/// order; of nothing it is (-inf, 0, 0). A prefix whose scores are all -inf has output 0 and lse -inf. A score of +inf
/// gives NaN from there on.
///
/// H is the larger of the two numbers of heads and a multiple of the other: consecutive heads share scores or values,
/// and their gradients are summed. scores and v are float32, float16 or bfloat16, each on its own; out has the type of
/// v, the rest is float32. All are float64 when v is. Last dimensions of v and out are dense.
struct SoftmaxScanParams {
  AnyView scores;         ///< [B, Hs, T, 1]
  AnyView v;              ///< [B, Hv, T, Dv]
  AnyView out;            ///< [B, H, T, Dv]
  AnyView lse;            ///< [B, H, T, 1]; the backward reads it
  AnyView initial_state;  ///< [S, H, 1, Dv + 2], S sequences; absent: nothing was seen
  AnyView final_state;    ///< likewise, or absent; may be the memory of initial_state

  const int64_t* cu_seqlens = nullptr;  ///< [S + 1] bounds of packed sequences (B = 1); null: each batch item is one
  int64_t num_sequences = 0;            ///< S of cu_seqlens

  /// Tokens that are scanned by themselves before their states are joined, so that a long sequence of few heads
  /// occupies many threads. 0: chosen from the shapes.
  int64_t chunk = 0;
};

/// Inputs, and outputs which are overwritten; those with null data are not computed. Each has shape and type of what it
/// is the gradient of.
struct SoftmaxScanGrads {
  AnyView d_out;          ///< absent: zero
  AnyView d_lse;          ///< absent: zero
  AnyView d_final_state;  ///< absent: zero; the gradient of m goes to the first of the largest scores
  AnyView d_scores, d_v, d_initial_state;
};

/// Throws heed::Error for shapes, types and lengths that do not fit.
void check(const SoftmaxScanParams& params);
void check(const SoftmaxScanParams& params, const SoftmaxScanGrads& grads);

/// Scratch does not grow with T. One token (T = 1) is the step of decoding. Results do not depend on the number of
/// threads.
void softmax_scan(const SoftmaxScanParams& params);

/// Reads out and lse of the forward, and final_state where d_final_state is given.
void softmax_scan_backward(const SoftmaxScanParams& params, const SoftmaxScanGrads& grads);

namespace reference {
/// Token by token in double.
void softmax_scan(const SoftmaxScanParams& params);
void softmax_scan_backward(const SoftmaxScanParams& params, const SoftmaxScanGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
