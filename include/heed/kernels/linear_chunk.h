// Causal linear attention with a decaying state, chunk by chunk.
#pragma once

#include "heed/kernels/view.h"

namespace heed::kernels {

/// Linear attention whose state decays (GLA, arXiv 2312.06635; Lightning Attention, arXiv 2401.04658; the scalar decay
/// of Mamba-2, arXiv 2405.21060):
///   S_t = diag(exp(g_t)) S_{t-1} + k_t^T v_t,   out_t = scale q_t S_t
/// with g the log decay. H heads are computed; q, k, v and log_decay may each have fewer, of which head h takes
/// h * heads / H, and the gradients of a shared head are summed.
///
/// With `coefficients` in the place of log decays (Titans, arXiv 2501.00663), in every chunk, with S the state before
/// it:
///   out = scale (diag(reads) q S + (tril(q k^T) * pairs) v),   the state after it = carries S + k^T diag(writes) v
///
/// q, k, v are float32, float16 or bfloat16, all of one type; log_decay, coefficients and the states are float32;
/// states, decays and sums are float32 inside. All are float64 when q is. Last dimensions are dense (stride 1).
struct LinearChunkCoefficients {
  AnyView pairs;  ///< [B, Hc, T, chunk]: of a token of the same chunk in a token's output; later ones count as 0
  AnyView reads, writes;  ///< [B, Hc, T, 1]: of the state before the chunk in an output; of a token in that after it
  AnyView carries;        ///< [B, Hc, chunks of T, 1]: of the state before a chunk in that after it
};

struct LinearChunkParams {
  AnyView q, k;       ///< [B, Hq, T, Dk], [B, Hk, T, Dk]
  AnyView v;          ///< [B, Hv, T, Dv]
  AnyView log_decay;  ///< absent: none; [1, Hg, 1, 1], a head's constant; [B, Hg, T, 1]; [B, Hg, T, Dk]. At most 0
  LinearChunkCoefficients coefficients;  ///< all or none; neither with log_decay nor with cu_seqlens
  AnyView initial_state;                 ///< [S, H, Dk, Dv] of S sequences, or absent: zero
  AnyView out;                           ///< [B, H, T, Dv] of q's type, or float32
  AnyView final_state;                   ///< [S, H, Dk, Dv], or absent; may be the memory of initial_state
  double scale = 1;

  /// Tokens of a chunk, in [1, kMostChunk]: inside one, pairs of tokens meet; between two, the state. Decays per
  /// channel take chunks of at most 16.
  int64_t chunk = 64;
  /// Tokens, in whole chunks, that are walked by themselves before their states are joined, so that long sequences of
  /// few heads occupy many threads; it costs another pass over keys and values. 0: one head of one
  /// long sequence is cut, others are not.
  int64_t segment = 0;

  const int64_t* cu_seqlens = nullptr;  ///< [S + 1] bounds of packed sequences (B = 1); null: each batch item is one
  int64_t num_sequences = 0;            ///< S of cu_seqlens
};

inline constexpr int64_t kMostChunk = 512;

/// Outputs are overwritten; those with null data are not computed. Each has shape and type of what it is the gradient
/// of, d_out those of out.
struct LinearChunkGrads {
  AnyView d_out;          ///< in
  AnyView d_final_state;  ///< in; absent: zero
  AnyView d_q, d_k, d_v, d_log_decay, d_initial_state;
  LinearChunkCoefficients d_coefficients;
};

/// Throws heed::Error for shapes, types and lengths that do not fit.
void check(const LinearChunkParams& params);
void check(const LinearChunkParams& params, const LinearChunkGrads& grads);

/// One token (T = 1) is the step of decoding and costs one pass over the state. Results do not depend on the number of
/// threads. A log decay above 0 throws heed::Error, after which the outputs are unspecified.
void linear_chunk(const LinearChunkParams& params);

/// Recomputes the states; `out` and `final_state` are not read and may be left out.
void linear_chunk_backward(const LinearChunkParams& params, const LinearChunkGrads& grads);

namespace reference {
/// Token by token in double; with coefficients pair by pair.
void linear_chunk(const LinearChunkParams& params);
void linear_chunk_backward(const LinearChunkParams& params, const LinearChunkGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
