// Selections of blocks on torch tensors: scores of pooled blocks, and lists of blocks for block-sparse attention.
// Nothing here is differentiable.
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"
#include "heed/kernels/select_blocks.h"

namespace heed::ops {

using kernels::BlockGrid;

/// Means of x [B, H, N, D] over blocks of rows, the last of which may be partial: float [B, H, ceil(N / block), D].
torch::Tensor block_means(const torch::Tensor& x, int64_t block);

/// Softmax, over the key blocks that a query block sees (causal, bottom-right aligned), of the scores of pooled queries
/// [B, Hq, query blocks, D] and keys [B, Hkv, key blocks, D]: float [B, Hq, query blocks, key blocks], 0 for the rest.
torch::Tensor block_weights(const torch::Tensor& q_means, const torch::Tensor& k_means, const BlockGrid& grid,
                            double scale);

// Lists are int32 with entries below 0 passed over; conventions: heed/kernels/select_blocks.h.

/// Lists [B, H, query blocks, K]: key blocks of each query block.
BlockListTensors block_list_of_rows(const torch::Tensor& lists, const BlockGrid& grid);
/// Lists [B, H, 1, K]: pairs query_block * key_blocks + key_block.
BlockListTensors block_list_of_pairs(const torch::Tensor& lists, const BlockGrid& grid);
/// Columns [B, H, 1, K] and distances [B, H, 1, K']: every block that holds a pair of one, causal.
BlockListTensors block_list_of_lines(const torch::Tensor& columns, const torch::Tensor& distances,
                                     const BlockGrid& grid);
BlockListTensors unite(const BlockListTensors& a, const BlockListTensors& b, const BlockGrid& grid);

/// The lists as a map: bool [batch, heads, query blocks, key blocks].
torch::Tensor block_map(const BlockListTensors& blocks, const BlockGrid& grid);

/// Pairs under `mask` that the lists leave, over `batch` sequences and `heads` heads.
int64_t area(const BlockListTensors& blocks, const BlockGrid& grid, const Mask& mask, int64_t batch, int64_t heads);

}  // namespace heed::ops
