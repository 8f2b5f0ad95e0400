// A model on one text under a cache policy: the prompt in chunks, then token by token.
#pragma once

#include "heed/cache/policy.h"

namespace heed::cache {

/// Not to be used from several threads at once. The model must outlive it and is put into evaluation mode.
class Session {
 public:
  /// `chunk`: tokens of the prompt that pass through the model at a time; what is held beside weights and cache grows
  /// with it and not with the prompt.
  Session(DecoderLm model, const Policy& policy, int64_t batch = 1, int64_t chunk = 512);

  /// Tokens int64 [B, N] of the prompt; may be called again to go on with it. `expected` tokens in all are made room
  /// for at once. Returns the logits [B, vocab] after the last token.
  torch::Tensor prefill(const torch::Tensor& tokens, int64_t expected = 0);
  /// The prompt is complete; called by the first `step`.
  void finish_prompt();
  /// Tokens int64 [B] -> logits [B, vocab] of what follows them.
  torch::Tensor step(const torch::Tensor& tokens);
  /// Logits [B, N, vocab] after each of N tokens [B, N] that are fed one at a time as decode steps.
  torch::Tensor steps(const torch::Tensor& tokens);

  const DecoderConfig& config() const { return model_->config(); }
  int64_t seen() const { return state_.seen(); }
  int64_t cache_bytes() const { return state_.bytes(); }
  int64_t policy_bytes() const;
  /// Since the prompt, over all layers.
  Reads reads() const;

  DecoderState& state() { return state_; }
  void set_taps(Taps* taps) { taps_ = taps; }

 private:
  DecoderLm model_;
  DecoderState state_;
  int64_t chunk_;
  bool in_prompt_ = true;
  Taps* taps_ = nullptr;
};

}  // namespace heed::cache
