// Random parts of a sequence that attend within themselves (The Information Pathways Hypothesis, arXiv 2306.01705).
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"

namespace heed::nn {

struct SubsampleOptions {
  int64_t reduction = 4;  ///< c: every token sees N / c of them, itself included
  /// Tokens are sorted by i + sigma eps_i, eps ~ N(0, 1), and cut into c parts; below 0: in no order at all.
  double sigma = -1;
  int64_t leading = 0;  ///< tokens at the begin that are no part of it: they see all and are seen by all
};

/// int64 [N] without padding, else [B, N]: the part of each token, drawn by `seed` alone; -1: padding or leading. Sizes
/// of an item's parts differ by at most one. Throws heed::Error for reductions below 1.
torch::Tensor subsample_parts(int64_t tokens, const SubsampleOptions& options, uint64_t seed,
                              const torch::Tensor& padding = {});

/// Attention of q [B, Hq, N, D] over k, v [B, Hk, M, D] in which a query sees the keys of its own part, those before it
/// where `causal` (M = N then). Without causal M may differ from N: sources have parts of their own. `padding` bool [B,
/// M]. Of `options` scale, softcap and dropout count.
torch::Tensor subsampled_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                                   AttentionOptions options, const SubsampleOptions& subsample, bool causal,
                                   uint64_t seed, const torch::Tensor& padding = {});

}  // namespace heed::nn
