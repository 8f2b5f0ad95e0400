// Queries and keys of a call in an order of their own, so that tiles hold tokens that attend together.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/mask_tile.h"

namespace heed::kernels {

/// Slots stand for rows of the tensors, the same in every batch item and head; N and M count slots. Which pairs are
/// visible, and which keys a block of queries visits, is said here in place of a mask and a block list.
class TileOrder {
 public:
  /// Keys [begin, end) that lie one after the other.
  struct Run {
    int64_t begin, end;
  };

  virtual ~TileOrder() = default;
  /// What is visible of queries [i0, i0 + rows) against keys [j0, j1), as cover_tile says it.
  virtual TileCover cover(int64_t batch, int64_t i0, int64_t rows, int64_t j0, int64_t j1, int64_t width,
                          uint32_t* bits) const = 0;

  int64_t query_slots() const { return static_cast<int64_t>(query_rows_.size()); }
  int64_t key_slots() const { return static_cast<int64_t>(key_rows_.size()); }
  /// The row of each slot; -1: none. A row of queries has one slot.
  const int32_t* query_rows() const { return query_rows_.data(); }
  const int32_t* key_rows() const { return key_rows_.data(); }
  /// The rows that the gradients of keys and values go to; null: a row a slot, where rows have several slots.
  virtual const int32_t* key_gradient_rows() const { return key_rows_.data(); }
  /// Queries that share a list of runs.
  int64_t block_rows() const { return block_rows_; }
  /// The keys that the block of query i visits, ascending.
  const Run* begin_runs(int64_t i) const { return runs_.data() + offsets_[i / block_rows_]; }
  const Run* end_runs(int64_t i) const { return runs_.data() + offsets_[i / block_rows_ + 1]; }

 protected:
  std::vector<int32_t> query_rows_, key_rows_;
  int64_t block_rows_ = 1;
  std::vector<int64_t> offsets_{0};  ///< of each block's runs
  std::vector<Run> runs_;
};

}  // namespace heed::kernels
