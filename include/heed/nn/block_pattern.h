// Block-sparse patterns: which key blocks a query block sees, as a rule, and attention under it at any offset.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "heed/nn/core_report.h"

namespace heed::nn {

/// Geometry a rule is asked with. Blocks are counted from the first key.
struct BlockScope {
  int64_t key_blocks = 0;
  bool causal = false;
};

/// The key blocks that query block `query_block` of head `head` sees, in any order; repeats and blocks outside [0,
/// key_blocks) are dropped.
using BlockRule = std::function<std::vector<int32_t>(const BlockScope&, int64_t head, int64_t query_block)>;

/// CSR lists of a rule for `query_blocks` query blocks that start at block `first`. `heads` lists a call, shared by the
/// batch.
BlockListTensors block_lists(const BlockRule& rule, const BlockScope& scope, int64_t heads, int64_t first,
                             int64_t query_blocks, int64_t block);

/// Attention in which query i' = i + M - N of block i' / block sees what the rule says of its block, inside
/// options.mask. q [B, Hq, N, D], k and v with M >= N tokens; N may start anywhere in a block. `report` counts no pairs
/// when it starts inside one.
torch::Tensor block_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                              AttentionOptions options, const BlockRule& rule, int64_t block, bool causal,
                              CoreReport* report = nullptr);

}  // namespace heed::nn
