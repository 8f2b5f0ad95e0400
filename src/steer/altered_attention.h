// A cache that keeps everything and attends differently in some of its layer's query heads.
#pragma once

#include "heed/cache/layer_cache.h"

namespace heed::steer {

class AlteredAttention : public cache::LayerCache {
 protected:
  /// `heads`: the query heads that change; none: the full cache.
  explicit AlteredAttention(const std::vector<int64_t>& heads);

  /// Outputs [B, H, n, Dv] of the H chosen heads, whose own are `plain`. lse float [B, H, n] of these.
  virtual torch::Tensor alter(const Chunk& chunk, const torch::Tensor& plain, const torch::Tensor& lse) = 0;

  /// What the chosen heads see among some keys.
  struct Part {
    torch::Tensor out;   ///< float [B, H, n, Dv]: attention over these keys alone; 0 where a row sees none
    torch::Tensor mass;  ///< float [B, H, n, 1]: their share of the weights
  };
  /// Keys where `among`, bool [1|B, 1|H, 1, M], is true. No weights are made: the shares follow from the two lse.
  Part attend_among(const Chunk& chunk, const torch::Tensor& lse, const torch::Tensor& among) const;

  /// Queries of the chosen heads, [B, H, n, D]; they attend to `kv_.keys()` under `head_options`.
  torch::Tensor chosen(const torch::Tensor& heads) const { return heads.index_select(1, heads_); }
  AttentionOptions head_options(const Chunk& chunk) const;

  torch::Tensor attend_chunk(const Chunk& chunk) final;
  torch::Tensor attend_step(const Chunk& chunk) final;

 private:
  torch::Tensor change(const Chunk& chunk, torch::Tensor out, const torch::Tensor& lse);

  torch::Tensor heads_;  // int64 [H]
};

}  // namespace heed::steer
