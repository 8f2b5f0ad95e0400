// Selections as block lists: what top-k and top-p chose becomes the index of block-sparse attention.
#pragma once

#include <vector>

#include "heed/kernels/block_list.h"
#include "heed/kernels/view.h"

namespace heed::kernels {

/// How queries and keys are cut into blocks; the last ones may be partial.
struct BlockGrid {
  int64_t queries = 0, keys = 0;
  int64_t query_block = 64, key_block = 64;

  int64_t query_blocks() const { return (queries + query_block - 1) / query_block; }
  int64_t key_blocks() const { return (keys + key_block - 1) / key_block; }
};

/// Block lists with their memory.
struct BlockListBuffer {
  std::vector<int64_t> offsets;
  std::vector<int32_t> columns;
  int64_t batch = 1, heads = 1;
  BlockGrid grid;

  /// Valid as long as this object is neither changed nor gone.
  BlockList list() const {
    return {offsets.data(),    columns.data(),   batch,         heads, grid.query_blocks(),
            grid.key_blocks(), grid.query_block, grid.key_block};
  }
};

// Lists below have any order and repetitions; entries below 0 are passed over; others must lie in their range, else
// heed::Error. Batch and heads of the lists become those of the block lists, 1 where they are shared. Last dimensions
// are dense.

/// Key blocks of each query block: lists [B, H, query blocks, K].
BlockListBuffer block_list_of_rows(const View<const int32_t>& lists, const BlockGrid& grid);

/// Block pairs query_block * key_blocks + key_block, chosen over all rows at once: lists [B, H, 1, K].
BlockListBuffer block_list_of_pairs(const View<const int32_t>& lists, const BlockGrid& grid);

/// Every block that holds a visible pair of a key in `columns` or of a distance i' - j in `distances`, causal and
/// bottom-right aligned: both [B, H, 1, K]. What MInference (arXiv 2407.02490) calls vertical and slash lines.
BlockListBuffer block_list_of_lines(const View<const int32_t>& columns, const View<const int32_t>& distances,
                                    const BlockGrid& grid);

/// The union of two lists over the same grid; a batch or head count of 1 is shared by the other's.
BlockListBuffer unite(const BlockListBuffer& a, const BlockListBuffer& b);

}  // namespace heed::kernels
