// The one call: exact attention on torch tensors, differentiable, over masks and scores given as values.
#pragma once

#include <torch/torch.h>

#include <optional>

#include "heed/kernels/mask.h"

namespace heed {

using kernels::Alignment;
using kernels::Causal;
using kernels::Dilation;
using kernels::Mask;
using kernels::SinkTokens;
using kernels::Window;

enum class NormalizerKind { softmax, sigmoid, clipped_softmax };

/// Block-sparse index as tensors: offsets int64 [rows + 1], columns int32; rows = batch * heads * ceil(N /
/// query_block).
struct BlockListTensors {
  torch::Tensor offsets, columns;
  int64_t batch = 1, heads = 1, query_block = 64, key_block = 64;
};

/// Options of `attention`. Conventions: docs/semantics.md.
struct AttentionOptions {
  Mask mask;                                  ///< everything visible by default
  double scale = 0;                           ///< 0: 1 / sqrt(D)
  double softcap = 0;                         ///< c > 0: c * tanh(s / c)
  std::optional<torch::Tensor> alibi_slopes;  ///< float [Hq]
  std::optional<torch::Tensor> bias;          ///< float [1|B, 1|Hq, 1|N, M], differentiable
  std::optional<torch::Tensor> temperature;   ///< float [1|B, 1|Hq, 1|N, 1], positive, differentiable
  std::optional<torch::Tensor> multiplier;    ///< float [1|B, 1|Hq, 1|N, M], after the normaliser, differentiable
  NormalizerKind normalizer = NormalizerKind::softmax;
  std::optional<torch::Tensor> sink_logit;                ///< float [Hq], differentiable (softmax only)
  std::optional<torch::Tensor> sigmoid_bias;              ///< float [Hq] or [1], differentiable; absent: -log(M)
  double gamma = 0, zeta = 1;                             ///< clipped softmax
  bool gamma_per_key = false;                             ///< gamma is divided by the number of keys a row sees
  std::optional<torch::Tensor> q_lengths, k_lengths;      ///< int64 [B]
  std::optional<torch::Tensor> cu_q, cu_k;                ///< int64 [S + 1], packed: B = 1
  std::optional<torch::Tensor> prefix_lengths;            ///< int64 [B]: keys below are visible whatever the mask says
  std::optional<torch::Tensor> q_documents, k_documents;  ///< int32 [B, N], [B, M]: pairs of different ids are hidden
  std::optional<torch::Tensor> q_to_k_head, q_to_v_head;  ///< int32 [Hq]
  std::optional<BlockListTensors> blocks;
  double dropout = 0;
  uint64_t seed = 0;
};

struct AttentionResult {
  torch::Tensor out;  ///< [B, Hq, N, Dv]
  torch::Tensor lse;  ///< float [B, Hq, N], differentiable; undefined for sigmoid
};

/// q [B, Hq, N, D], k [B, Hk, M, D], v [B, Hv, M, Dv] -> [B, Hq, N, Dv]. float32, bfloat16, float16; float64 goes to
/// the double reference. Any strides with a dense last dimension. Throws heed::Error for what does not fit.
torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const AttentionOptions& = {});
AttentionResult attention_with_lse(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                                   const AttentionOptions& = {});

/// Softmax weights of chosen query rows, rebuilt from lse: rows int64 [R] -> float [B, Hq, R, M]. Differentiable in q,
/// k, lse.
torch::Tensor attention_weights(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& lse,
                                const torch::Tensor& rows, const AttentionOptions& = {});

}  // namespace heed
