// What policies share that skip pairs of the prompt: the cache is full, decode steps read everything.
#pragma once

#include "heed/cache/layer_cache.h"
#include "heed/ops/attn_stats.h"
#include "heed/ops/select_blocks.h"

namespace heed::cache {

/// A chunk of the prompt chooses, from its own last queries, what its queries read of all keys up to themselves.
class SparsePrompt : public LayerCache {
 protected:
  torch::Tensor attend_chunk(const Chunk& chunk) final;
  /// Whether a chunk of n queries against m keys is too small to choose anything.
  virtual bool reads_all(int64_t n, int64_t m) const = 0;
  /// Attention of a chunk, [B, Hq, n, Dv]; adds the pairs that it visits to `pairs`.
  virtual torch::Tensor attend_sparse(const Chunk& chunk, int64_t& pairs) = 0;

  ops::BlockGrid grid(const Chunk& chunk, int64_t block) const { return {chunk.size(), kv_.longest(), block, block}; }
  /// The sums of the weights of the chunk's last `rows` queries (as many as there are) over all keys, by key and by
  /// distance, float [B, Hq, 1, M].
  ops::LineSums last_lines(const Chunk& chunk, int64_t rows) const;
};

/// Key blocks in which the diagonal of a query block lies, int32 [1, 1, query blocks, K]; -1 behind the last. With
/// `first`, block 0 too.
torch::Tensor own_blocks(const ops::BlockGrid& grid, bool first);

}  // namespace heed::cache
