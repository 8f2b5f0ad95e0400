// One call of linear_chunk or delta_chunk: its tensors as the kernels ask for them, and its autograd node.
#pragma once

#include <torch/torch.h>

#include <optional>

#include "heed/kernels/delta_chunk.h"

namespace heed::ops {

/// Both kernels take the same but for beta, whose presence makes it a delta_chunk.
struct ChunkCall {
  torch::Tensor q, k, v;                         ///< [B, heads, T, D]
  torch::Tensor beta, log_decay, initial_state;  ///< 4 dimensions or undefined, of side_dtype(q)
  torch::Tensor pairs, reads, writes, carries;   ///< coefficients of linear_chunk, all of side_dtype(q) or undefined
  torch::Tensor cu_seqlens;                      ///< int64 or undefined
  double scale = 1;
  int64_t chunk = 64;
  int64_t segment = 0;    ///< of linear_chunk
  bool wide_out = false;  ///< out of side_dtype(q), not of q's
  torch::Tensor out, state;

  bool is_delta() const { return beta.defined(); }
  const char* name() const { return is_delta() ? "delta_chunk" : "linear_chunk"; }
  int64_t heads() const;
  void allocate_outputs();

  kernels::LinearChunkParams linear() const;
  kernels::DeltaChunkParams delta() const;

 private:
  template <class Params>
  void fill(Params& p) const;
};

/// float32, of float64 tensors float64: what states, decays and sums have.
torch::ScalarType side_dtype(const torch::Tensor& tensor);

/// Checks and runs the call, as a node of the graph where an input asks for a gradient. Results are in `out`, `state`.
void run(ChunkCall& call);

/// A call's tensors from those of the public face. `log_decay`: [H], [B, H, T] or [B, H, T, D].
ChunkCall make_call(const char* op, const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                    const torch::Tensor& beta, const std::optional<torch::Tensor>& log_decay,
                    const std::optional<torch::Tensor>& initial_state, const std::optional<torch::Tensor>& cu_seqlens);

/// x [B, h, ...] with every head repeated for the neighbours that share it.
torch::Tensor expand_heads(const torch::Tensor& x, int64_t heads);

}  // namespace heed::ops
