// Sinks and a ring of recent tokens: StreamingLLM's cache, and the streaming heads of head-wise policies.
#pragma once

#include <deque>

#include "heed/cache/layer_cache.h"

namespace heed::cache {

/// Slots [0, sinks) hold the first tokens, the others the last `window`, oldest overwritten first. KV heads can be
/// excepted: they keep everything.
///
/// Positions in the cache: a token's rank among those held. Between recent tokens ranks differ as places in the text
/// do, so keys are kept rotated at their places; only sinks are asked with a query that stands at the last rank.
class SinkWindow : public LayerCache {
 public:
  struct Settings {
    int64_t sinks = 4, window = 1024;
    bool in_cache = true;
    std::vector<bool> full = {};  ///< KV heads that keep everything; empty: none. Goes with absolute positions.
  };
  explicit SinkWindow(const Settings& settings);

 protected:
  int64_t reserved_slots(int64_t tokens) const override;
  void store(const Chunk& chunk) override;
  torch::Tensor attend_chunk(const Chunk& chunk) override;
  torch::Tensor attend_step(const Chunk& chunk) override;
  void after_chunk(const Chunk&) override { shrink(); }

  /// Recent tokens that a streaming head keeps once so many are seen. It must not fall, nor grow faster than the text.
  virtual int64_t window(int64_t) const { return s_.window; }
  /// These slots of every streaming row are about to be dropped.
  virtual void leaving(const std::vector<int64_t>&) {}

  /// Streaming rows down to their sinks and window.
  void shrink();
  bool streams(int64_t row) const { return s_.full.empty() || !s_.full[row % kv_.heads()]; }
  bool any_streams() const { return streaming_head_ >= 0; }
  const Settings& settings() const { return s_; }

 private:
  int64_t capacity(int64_t seen) const { return s_.sinks + window(seen); }
  int64_t held() const { return kv_.rows() ? kv_.length(streaming_head_) : 0; }
  void keep(const std::vector<int64_t>& slots);
  void unroll();
  torch::Tensor over_sinks(const Chunk& chunk, const torch::Tensor& out, const torch::Tensor& lse) const;

  Settings s_;
  int64_t streaming_head_ = 0;  // the first; -1: none. All streaming rows hold the same tokens in the same slots.
  std::deque<int64_t> recent_;  // slots from the oldest to the newest; empty: slots are in the order of the text
};

}  // namespace heed::cache
