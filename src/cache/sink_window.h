// Sinks and a ring of recent tokens: StreamingLLM's cache, and the streaming heads of head-wise policies.
#pragma once

#include "heed/cache/layer_cache.h"

namespace heed::cache {

/// Slots [0, sinks) hold the first tokens, the others the last `window`, oldest overwritten first.
///
/// Positions in the cache: a token's rank among those held. Between recent tokens ranks differ as places in the text
/// do, so keys are kept rotated at their places; only sinks are asked with a query that stands at the last rank.
class SinkWindow : public LayerCache {
 public:
  struct Settings {
    int64_t sinks = 4, window = 1024;
    bool in_cache = true;
  };
  explicit SinkWindow(const Settings& settings) : s_(settings) {}

 protected:
  int64_t reserved_slots(int64_t tokens) const override { return std::min(tokens, s_.sinks + s_.window); }
  void store(const Chunk& chunk) override;
  torch::Tensor attend_chunk(const Chunk& chunk) override;
  torch::Tensor attend_step(const Chunk& chunk) override;
  void after_chunk(const Chunk& chunk) override;

 private:
  int64_t capacity() const { return s_.sinks + s_.window; }
  void unroll();
  torch::Tensor over_sinks(const Chunk& chunk, const torch::Tensor& out, const torch::Tensor& lse) const;

  Settings s_;
  int64_t oldest_ = 0;  // of the ring, counted from the first recent slot
};

}  // namespace heed::cache
