// Searches for keys on torch tensors; nothing here is differentiable. Conventions: heed/kernels/key_search.h.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/kernels/key_search.h"

namespace heed::ops {

struct TreeSearchOptions {
  int64_t query_block = 32, key_block = 2;
  int64_t blocks = 256;
  int64_t row_stride = 2;
  kernels::Representative representative = kernels::Representative::first;
};

/// Key blocks of each query block of q [B, Hq, N, D] among those of k [B, Hk, M, D]: int32 [B, Hq, ceil(N /
/// query_block), min(blocks, all)], ascending, -1 behind the last. Keys where `hidden` bool [B, M] is true (undefined:
/// none) are not matched. `scored`, if given, becomes the number of block scores, int64 [B, Hq, query blocks].
torch::Tensor tree_search(const torch::Tensor& q, const torch::Tensor& k, const TreeSearchOptions& options,
                          const torch::Tensor& hidden = {}, torch::Tensor* scored = nullptr);

/// The `top` best keys at rising distances `offsets` before each query: int32 [B, Hq, N, top], the best first, -1 where
/// there are no more.
torch::Tensor jump_search(const torch::Tensor& q, const torch::Tensor& k, const std::vector<int64_t>& offsets,
                          int64_t top, const torch::Tensor& hidden = {});

}  // namespace heed::ops
