// Decode steps of a policy, repeated at one length and timed.
#pragma once

#include "heed/cache/session.h"

namespace heed::bench {

struct PolicySteps {
  double decode_ms = 0, decode_p95_ms = 0, attention_ms = 0, policy_ms = 0;  ///< medians, and a 95th percentile
  double read = 0, scored = 0;  ///< pairs, and key-sized vectors, a step, layer and row
  double full_steps = 0;        ///< share of a layer's steps that attend to everything
};

/// Steps with the tokens int64 [batch, n] in turn; `rows`: sequences times KV heads. Behind each the cache forgets the
/// token by which it has grown, so that every step is one at the length of the prompt. The session is of no use
/// afterwards.
PolicySteps time_steps(cache::Session& session, int64_t rows, const torch::Tensor& tokens);

}  // namespace heed::bench
