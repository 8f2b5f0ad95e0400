// What the core of a mechanism says of itself to whoever asks: how much it looked at.
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"

namespace heed::nn {

/// A field that has no meaning for a mechanism stays as it is.
struct CoreReport {
  /// float [B, Hq, N]: log-sum-exp of the logits that a query attends to, where the core is the softmax of plain scaled
  /// products over some of the keys. exp(lse - lse of exact attention) is then the attention mass that it keeps.
  torch::Tensor lse;
  /// Pairs of query and key that get a weight, over batch items and query heads; -1: not known.
  int64_t pairs = -1;
};

/// heed::attention, with its report where one is asked for.
torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const AttentionOptions& options, CoreReport* report);

}  // namespace heed::nn
