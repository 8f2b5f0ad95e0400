// The delta rule, with or without a decay of the state, chunk by chunk.
#pragma once

#include "heed/kernels/linear_chunk.h"

namespace heed::kernels {

/// DeltaNet (arXiv 2406.06484) and, with a log decay g, the gated delta rule (arXiv 2412.06464):
///   u_t = beta_t (v_t - exp(g_t) k_t S_{t-1}),   S_t = exp(g_t) S_{t-1} + k_t^T u_t,   out_t = scale q_t S_t
/// Heads, types and states as in LinearChunkParams; beta is float32 (float64 in a float64 call).
struct DeltaChunkParams {
  AnyView q, k;           ///< [B, Hq, T, Dk], [B, Hk, T, Dk]; keys of norm 1 keep the state bounded for beta in [0, 2]
  AnyView v;              ///< [B, Hv, T, Dv]
  AnyView beta;           ///< [B, Hb, T, 1]
  AnyView log_decay;      ///< absent: none; [1, Hg, 1, 1], a head's constant; [B, Hg, T, 1]. At most 0
  AnyView initial_state;  ///< [S, H, Dk, Dv] of S sequences, or absent: zero
  AnyView out;            ///< [B, H, T, Dv] of q's type, or float32
  AnyView final_state;    ///< [S, H, Dk, Dv], or absent; may be the memory of initial_state
  double scale = 1;
  int64_t chunk = 64;  ///< tokens of a chunk, in [1, kMostChunk]

  const int64_t* cu_seqlens = nullptr;  ///< [S + 1] bounds of packed sequences (B = 1); null: each batch item is one
  int64_t num_sequences = 0;            ///< S of cu_seqlens
};

/// As LinearChunkGrads.
struct DeltaChunkGrads {
  AnyView d_out;          ///< in
  AnyView d_final_state;  ///< in; absent: zero
  AnyView d_q, d_k, d_v, d_beta, d_log_decay, d_initial_state;
};

/// Throws heed::Error for shapes, types and lengths that do not fit.
void check(const DeltaChunkParams& params);
void check(const DeltaChunkParams& params, const DeltaChunkGrads& grads);

/// One token (T = 1) is the step of decoding and costs two passes over the state. Results do not depend on the number
/// of threads. A log decay above 0 throws heed::Error, after which the outputs are unspecified.
void delta_chunk(const DeltaChunkParams& params);

/// Recomputes the states; `out` and `final_state` are not read and may be left out.
void delta_chunk_backward(const DeltaChunkParams& params, const DeltaChunkGrads& grads);

namespace reference {
/// Token by token in double.
void delta_chunk(const DeltaChunkParams& params);
void delta_chunk_backward(const DeltaChunkParams& params, const DeltaChunkGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
