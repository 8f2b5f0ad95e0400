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
class StepTimer {
 public:
  /// The steps that are timed, and the rounds in which sessions that take turns do them.
  static constexpr int64_t kSteps = 64, kRounds = 8;

  StepTimer(cache::Session& session, int64_t rows, torch::Tensor tokens);

  void run(int64_t steps);
  PolicySteps result() const;

 private:
  void step();

  cache::Session& session_;
  int64_t rows_, next_ = 0;
  torch::Tensor tokens_;
  cache::Reads begin_, last_;
  std::vector<double> times_, attention_, policy_;
};

}  // namespace heed::bench
