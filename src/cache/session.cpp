#include "heed/cache/session.h"

#include "heed/error.h"

namespace heed::cache {

using torch::Tensor;

Session::Session(DecoderLm model, const Policy& policy, int64_t batch, int64_t chunk)
    : model_(std::move(model)), state_(make_state(model_, policy, batch)), chunk_(chunk) {
  require(chunk >= 1, "chunk = {}: 1 or more is accepted", chunk);
  model_->eval();
}

Tensor Session::prefill(const Tensor& tokens, int64_t expected) {
  torch::NoGradGuard no_grad;
  require(tokens.dim() == 2 && tokens.size(1) > 0, "a prompt of [batch, 1 or more] tokens is accepted");
  each_cache(state_, [&](LayerCache& cache) { cache.reserve(std::max(expected, seen() + tokens.size(1))); });
  int64_t chunk = chunk_;
  each_cache(state_, [&](LayerCache& cache) {
    if (cache.wants_whole_prompt()) chunk = tokens.size(1);
  });
  Tensor last;
  for (int64_t i = 0; i < tokens.size(1); i += chunk) {
    const int64_t n = std::min(chunk, tokens.size(1) - i);
    last = model_->hidden(tokens.narrow(1, i, n), &state_, 0, taps_).slice(1, n - 1);
  }
  return model_->logits(last).squeeze(1);
}

void Session::finish_prompt() {
  if (!in_prompt_) return;
  in_prompt_ = false;
  each_cache(state_, [](LayerCache& cache) { cache.finish_prompt(); });
}

Tensor Session::step(const Tensor& tokens) {
  torch::NoGradGuard no_grad;
  require(tokens.dim() == 1, "a step takes one token a sequence: [batch]");
  finish_prompt();
  return model_->logits(model_->hidden(tokens.unsqueeze(1), &state_, 0, taps_)).squeeze(1);
}

Tensor Session::steps(const Tensor& tokens) {
  std::vector<Tensor> logits;
  for (int64_t i = 0; i < tokens.size(1); ++i) logits.push_back(step(tokens.select(1, i)));
  return torch::stack(logits, 1);
}

int64_t Session::policy_bytes() const {
  int64_t bytes = 0;
  each_cache(state_, [&](LayerCache& cache) { bytes += cache.policy_bytes(); });
  return bytes;
}

Reads Session::reads() const {
  Reads reads;
  each_cache(state_, [&](LayerCache& cache) { reads += cache.reads(); });
  return reads;
}

}  // namespace heed::cache
