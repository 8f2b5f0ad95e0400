// One-shot compression of a prompt by the attention of its last queries: SnapKV, and what varies its budgets.
#pragma once

#include <functional>

#include "heed/cache/layer_cache.h"
#include "heed/kernels/select.h"
#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::cache {

struct ObservationSettings {
  int64_t window = 32;      ///< last queries that score; their tokens are kept
  int64_t capacity = 2048;  ///< tokens kept in all, the window included
  int64_t width = 5;        ///< of the pooling, odd
  kernels::PoolParams::Kind pooling = kernels::PoolParams::Kind::average;

  static std::vector<Parameter> parameters();
  static ObservationSettings read(ConfigReader& reader);
};

/// A window of 32 queries, or half of a small budget.
nlohmann::json observation_at_budget(int64_t budget);

/// After the prompt each KV head keeps the window and, of the tokens before it, those with the largest pooled column
/// sums over the window's queries (mean over the group). What is decoded later is kept.
class ObservedPrompt : public LayerCache {
 public:
  /// `kept`(prompt length): tokens that stay before the window.
  ObservedPrompt(const ObservationSettings& settings, std::function<int64_t(int64_t)> kept)
      : s_(settings), kept_(std::move(kept)) {}
  int64_t policy_bytes() const override { return queries_.defined() ? int64_t(queries_.nbytes()) : 0; }

 protected:
  void after_chunk(const Chunk& chunk) override;
  void compress() override;

 private:
  ObservationSettings s_;
  std::function<int64_t(int64_t)> kept_;
  torch::Tensor queries_;  // [B, Hq, window, D], the last of the prompt
  AttentionOptions options_;
};

}  // namespace heed::cache
