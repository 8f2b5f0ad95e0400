// The selective state-space scan: a diagonal recurrence whose step, input and output depend on the token.
#pragma once

#include "heed/kernels/view.h"

namespace heed::kernels {

/// Mamba's scan (arXiv 2312.00752), per channel d of D with states n of N:
///   h_t = exp(Delta_t A) h_{t-1} + Delta_t x_t B_t,   y_t = C_t h_t + skip x_t,   out_t = y_t silu(z_t)
/// where Delta_t = softplus(delta_t + delta_bias) with `delta_softplus`, else delta_t + delta_bias.
///
/// `complex`: A, B, C and the states are complex, their last dimension holds 2 N floats, real and imaginary parts in
/// turn, and every state stands for itself and its conjugate: y_t = 2 Re(C_t h_t) + skip x_t. Gradients are those with
/// respect to the real and the imaginary part.
///
/// x, delta, z, B, C are float32, float16 or bfloat16, each on its own; out has the type of x; everything else is
/// float32. All are float64 when x is. Last dimensions are dense. Products and states accumulate in float32.
struct SelectiveScanParams {
  AnyView x;              ///< [B, 1, T, D]
  AnyView delta;          ///< [B, 1, T, D]
  AnyView a;              ///< [1, 1, D, N]; decays have a negative real part, which is not checked
  AnyView b, c;           ///< [B, G, T, N]; channel d reads group d * G / D
  AnyView skip;           ///< [1, 1, 1, D], or absent: no skip
  AnyView z;              ///< [B, 1, T, D], or absent: no gate
  AnyView delta_bias;     ///< [1, 1, 1, D], or absent
  AnyView out;            ///< [B, 1, T, D]; absent: only the final state is wanted
  AnyView initial_state;  ///< [S, 1, D, N], S sequences; absent: zero
  AnyView final_state;    ///< likewise, or absent; may be the memory of initial_state
  bool complex = false;
  bool delta_softplus = false;

  const int64_t* cu_seqlens = nullptr;  ///< [S + 1] bounds of packed sequences (B = 1); null: each batch item is one
  int64_t num_sequences = 0;            ///< S of cu_seqlens

  /// Tokens that are scanned by themselves before their states are joined, so that a long sequence of few channels
  /// occupies many threads. 0: chosen from the shapes.
  int64_t chunk = 0;
};

/// Inputs, and outputs which are overwritten; those with null data are not computed. Each has shape and type of what it
/// is the gradient of.
struct SelectiveScanGrads {
  AnyView d_out;          ///< absent: zero
  AnyView d_final_state;  ///< absent: zero
  AnyView d_x, d_delta, d_a, d_b, d_c, d_skip, d_z, d_delta_bias, d_initial_state;
};

/// Throws heed::Error for shapes, types and lengths that do not fit.
void check(const SelectiveScanParams& params);
void check(const SelectiveScanParams& params, const SelectiveScanGrads& grads);

/// Scratch does not grow with T. One token (T = 1) is the step of decoding. Results do not depend on the number of
/// threads.
void selective_scan(const SelectiveScanParams& params);

/// Recomputes the states from those at the ends of chunks; `out` and `final_state` are not read.
void selective_scan_backward(const SelectiveScanParams& params, const SelectiveScanGrads& grads);

namespace reference {
/// Token by token in double, one type for all views.
void selective_scan(const SelectiveScanParams& params);
void selective_scan_backward(const SelectiveScanParams& params, const SelectiveScanGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
