// Attention among tokens that clusters or hashes have put into the same bucket.
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"

namespace heed::nn {

/// How many earlier entries of the last dimension are equal: int64, of the shape of `buckets`.
torch::Tensor ranks_in_buckets(const torch::Tensor& buckets);

/// Query i sees the keys of its bucket: q [B, H, N, D], k [B, H, M, D], v [B, H, M, Dv], buckets int64 [B, H, N] and
/// [B, H, M] in [0, count). options.mask is asked with places inside the bucket, its last query on its last key. A
/// query whose bucket has no keys gives 0 and lse -inf. Each bucket is a packed sequence: nothing is padded, and the
/// work is that of the pairs.
AttentionResult bucket_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                                 const torch::Tensor& q_buckets, const torch::Tensor& k_buckets, int64_t count,
                                 AttentionOptions options);

/// Lists of single keys for single queries: those where `visible` bool [B, H, N, M] is true.
BlockListTensors listed_pairs(const torch::Tensor& visible);

}  // namespace heed::nn
