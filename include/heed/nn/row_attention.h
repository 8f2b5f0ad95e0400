// Attention in which every query row may see keys of its own choice.
#pragma once

#include <torch/torch.h>

#include <functional>

#include "heed/nn/core_report.h"

namespace heed::nn {

/// Which keys the query rows [first, first + rows) see: bool [1|B, 1|Hk|Hq, rows, M]. Asked again in the backward, so
/// it must give the same answer twice; no gradient passes through it.
using RowChoice = std::function<torch::Tensor(int64_t first, int64_t rows)>;

/// Attention of q [B, Hq, N, D] over the keys [B, Hk, M, D] that `choice` gives each row; it says all there is to say
/// of visibility, padding and causality included. A tile of rows is worked on at a time, on the keys that some row of
/// it sees, gathered where they are few. Nothing of size N x M is kept for the backward. Of `options` scale, softcap,
/// bias and dropout count; masks, documents and slopes of distances are refused. `report` gets pairs and lse where they
/// are known.
torch::Tensor row_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                            const AttentionOptions& options, const RowChoice& choice, CoreReport* report = nullptr);

/// Scores [..., M] -> bool: the `count` largest of each row among those where `candidates` is true (all of them where
/// there are not as many), ties to the lower index.
torch::Tensor largest(const torch::Tensor& scores, const torch::Tensor& candidates, int64_t count);
/// As many of each row as are a `share` in (0, 1] of its candidates, rounded up.
torch::Tensor largest_share(const torch::Tensor& scores, const torch::Tensor& candidates, double share);

}  // namespace heed::nn
