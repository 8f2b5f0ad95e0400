// What happens to a logit between the product and the weighted sum, as values.
#pragma once

#include <cstdint>

#include "heed/kernels/view.h"

namespace heed::kernels {

/// Score terms. Tensors are float (double for f64 calls); sizes of 1 broadcast. In packed calls the batch index is the
/// sequence.
struct Scores {
  double softcap = 0;  ///< c > 0: s -> c * tanh(s / c) (Gemma 2)
  const float* alibi_slopes =
      nullptr;          ///< [Hq]: adds -slope * |i' - j|, i' = i + M - N (Press et al., arXiv 2108.12409)
  AnyView bias;         ///< [1|B, 1|Hq, 1|N, M], added; any strides
  AnyView temperature;  ///< [1|B, 1|Hq, 1|N, 1], positive: s -> s / temperature
  AnyView multiplier;   ///< [1|B, 1|Hq, 1|N, M]: p -> p * multiplier after the normaliser (URPE)
};

struct Normalizer {
  enum class Kind : uint8_t { softmax, sigmoid, clipped_softmax };
  Kind kind = Kind::softmax;
  AnyView sink_logit;    ///< softmax only: [1, Hq, 1, 1]; one more key of value 0, added to the sum once
  AnyView sigmoid_bias;  ///< sigmoid only: [1, 1|Hq, 1, 1], p = sigmoid(s + bias); absent: -log(M)
  double gamma = 0;      ///< clipped softmax: clip((zeta - gamma) p + gamma, 0, 1) (arXiv 2306.12929)
  double zeta = 1;
  bool gamma_per_key = false;  ///< gamma is divided by the number of keys that the row sees
};

/// Weights are dropped after the normaliser: p -> p * keep / (1 - probability). The decision for a weight is a pure
/// function of (seed, batch, head, i, j) by Philox4x32-10, so tiles, threads and the backward all agree.
struct Dropout {
  double probability = 0;  ///< in [0, 1)
  uint64_t seed = 0;
};

}  // namespace heed::kernels
