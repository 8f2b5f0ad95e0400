// From logits to the next token.
#pragma once

#include <torch/torch.h>

#include "heed/tasks/random.h"

namespace heed::cache {

/// Cuts are applied in this order: top_k, temperature, min_p, top_p; the token of the largest logit always stays.
struct Sampling {
  double temperature = 0;  ///< 0: the largest logit (ties to the lower id), whatever the other settings
  int64_t top_k = 0;       ///< only the k largest; 0: all
  double top_p = 1;        ///< the fewest tokens that hold this probability
  double min_p = 0;        ///< only tokens with at least this share of the largest probability
  uint64_t seed = 0;

  /// Throws heed::Error for a value out of its range.
  void check() const;
};

/// The probabilities that are drawn from: float64 [vocab], of logits [vocab]. Needs a temperature above 0.
torch::Tensor distribution(const torch::Tensor& logits, const Sampling& sampling);

/// Draws token `index` of a sequence; a pure function of logits, settings and index.
int64_t sample(const torch::Tensor& logits, const Sampling& sampling, int64_t index);

}  // namespace heed::cache
