// Softmax in two levels: one key of every block, its landmark, stands for the block (arXiv 2305.16300).
#pragma once

#include <torch/torch.h>

#include <functional>

namespace heed::nn {

struct GroupedOptions {
  int64_t block = 64;       ///< tokens a block; the last of each is its landmark, the others are regular
  double scale = 0;         ///< of the logits; 0: 1 / sqrt(D)
  double softcap = 0;       ///< c > 0: logits become c tanh(s / c)
  int64_t retrieved = 0;    ///< k: earlier blocks that a row reads, by their landmarks' logits; 0: all of them
  bool one_choice = false;  ///< the rows of a block and head share their k blocks, by the largest weight that one gives
};

/// Keys or queries [X, H, n, D] at positions int64 [n] or [X, n].
using Rotation = std::function<torch::Tensor(const torch::Tensor& x, const torch::Tensor& positions)>;

/// Causal attention of q [B, Hq, N, D], the last N of the M tokens of k, v [B, Hk, M, D]. The softmax of query i is
/// over the regular tokens of its own block up to i and the landmarks of earlier blocks; the weight of a landmark is
/// shared out over the regular tokens of its block by a softmax over these. Values of landmarks are never read.
/// `padding` bool [B, M] or undefined: tokens that nobody sees; a block without a regular token, or without its
/// landmark, has no weight. Nothing of size N x M is kept for the backward.
///
/// With `rotation` q and k come without positions and are given few: the k blocks before the asking one stand in their
/// order, all older ones where the first of k + 1 stands, so that no position is beyond (k + 2) blocks.
///
/// Throws heed::Error for blocks below 2 tokens and for fewer keys than queries.
torch::Tensor grouped_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                                const GroupedOptions& options, const torch::Tensor& padding = {},
                                const Rotation& rotation = {});

}  // namespace heed::nn
