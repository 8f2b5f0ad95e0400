// A full cache that shows the attention weights of what passes through it.
#pragma once

#include <functional>
#include <memory>

#include "heed/cache/session.h"

namespace heed::probe {

struct Observer {
  /// Rows of a chunk that are wanted, int64, counted from 0; undefined: none.
  std::function<torch::Tensor(int64_t first, int64_t size)> rows;
  /// float [B, H, R, M], and where the R rows stand, int64 [R].
  std::function<void(int64_t layer, const torch::Tensor& weights, const torch::Tensor& positions)> weights;
  /// int64 [B, H]: the token of the largest weight of a decode step.
  std::function<void(int64_t layer, const torch::Tensor& tokens)> arg_max;
};

class ObservedLayer : public cache::LayerCache {
 public:
  explicit ObservedLayer(const Observer& observer) : observer_(observer) {}

 protected:
  torch::Tensor attend_chunk(const Chunk& chunk) override;
  torch::Tensor attend_step(const Chunk& chunk) override;

 private:
  const Observer& observer_;
};

/// Replaces the caches of a session that has seen nothing, in every layer that attends through one.
void replace_caches(cache::Session& session, const std::function<std::unique_ptr<cache::LayerCache>(int64_t)>& make);

}  // namespace heed::probe
