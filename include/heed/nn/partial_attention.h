// Partial results of attention over disjoint sets of keys, joined with gradients.
#pragma once

#include <vector>

#include "heed/attention.h"

namespace heed::nn {

/// Attention over the union of disjoint sets of keys, from the output [B, H, N, Dv] and lse [B, H, N] over each. Rows
/// that saw nothing anywhere have output 0 and lse -inf, and gradients of 0.
AttentionResult join_parts(const std::vector<AttentionResult>& parts);

}  // namespace heed::nn
