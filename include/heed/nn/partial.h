// Partial results of softmax attention over disjoint sets of keys, on torch tensors and with gradients.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/attention.h"

namespace heed::nn {

/// Attention over the union of disjoint sets of keys, from out [..., Dv] and lse [...] over each. A part that saw
/// nothing (out 0, lse -inf) adds nothing; where none saw anything out is 0, lse -inf, and gradients are 0.
AttentionResult merge(const std::vector<AttentionResult>& parts);
AttentionResult merge(const AttentionResult& a, const AttentionResult& b);

/// The same of P parts in one tensor: out [..., P, Dv], lse [..., P] -> out [..., Dv], lse [...].
AttentionResult merge_parts(const torch::Tensor& out, const torch::Tensor& lse);

}  // namespace heed::nn
