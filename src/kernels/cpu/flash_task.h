// What the forward and the backward engine share: the call, resolved, and how it is cut into items.
#pragma once

#include <vector>

#include "heed/kernels/variant.h"
#include "kernels/flash_problem.h"
#include "kernels/tile_order.h"

namespace heed::kernels {

/// Query rows that share the pass over the keys, at most: keys and values are read from the outer caches once per so
/// many rows. The forward keeps less per row, so it takes more, up to kMostForwardRows where heads are narrow.
/// Multiples of every instruction set's panel (48, 24, 12 rows).
inline constexpr int64_t kBlockRows = 192, kMostForwardRows = 768;
/// Keys per tile. Fixed, because it decides how the running maximum moves and so the last bits of a result. The forward
/// takes more: its sums of values then go through memory less often.
inline constexpr int64_t kTileKeys = 64, kForwardKeys = 256;
/// Widest panel: three vectors of the widest instruction set.
inline constexpr int64_t kPanelRows = 48;

/// Query rows [begin, end) of one (sequence, head).
struct BlockItem {
  int64_t sequence, head, begin, end;
};

/// Query rows of a block of the forward, at most.
inline int64_t forward_rows_of(const FlashParams& p) {
  return p.q.size[3] + p.v.size[3] <= 128 ? kMostForwardRows : kMostForwardRows / 2;
}

struct FlashTask {
  /// With an order, the params count queries and keys in its slots, in their sizes too, and have neither mask nor block
  /// list.
  explicit FlashTask(const FlashParams& params, const Variant& variant = {}, const TileOrder* order = nullptr);

  const FlashParams& p;
  const Variant variant;
  const TileOrder* const order;
  int64_t d, dv;
  int64_t forward_rows;
  int64_t
      group_keys;  ///< keys whose rows stay in L2 while the panels of a block pass over them; no result depends on it
  double scale;
  bool has_scores;   ///< a term stands between the product and the mask
  bool has_factors;  ///< something multiplies the weights: multiplier, dropout, a variant's
  bool has_pairs;    ///< bias or multiplier: a number for every pair is read
  bool own_weights;  ///< the variant brings its normaliser
  bool natural;      ///< logits are natural, not in units of log 2

  /// The row of query i in the tensors; -1: none.
  int64_t query_row(int64_t i) const { return order == nullptr ? i : order->query_rows()[i]; }

  /// The rows of queries and keys in the tensors, below 0: none; null: in their order.
  const int32_t* query_rows() const { return order == nullptr ? nullptr : order->query_rows(); }
  const int32_t* key_rows() const { return order == nullptr ? nullptr : order->key_rows(); }

  /// A hook of the variant, or null.
  template <class Hook>
  Hook hook(Hook VariantTable::*member) const {
    return variant.table == nullptr ? nullptr : variant.table->*member;
  }
};

/// Items over all sequences and heads, in an order that ends with the cheap ones of a causal mask. A function of the
/// shapes.
std::vector<BlockItem> cut_into_blocks(const FlashTask& task, int64_t most_rows = kBlockRows);

/// Calls tile(j0, j1) for the key tiles that rows [begin, end) may see, ascending and cut at multiples of `tile_keys`;
/// the runs of an order into equal tiles of at most as many.
template <class Tile>
void walk_tiles(const FlashTask& task, const Sequence& s, int64_t head, int64_t begin, int64_t end, int64_t tile_keys,
                const Tile& tile) {
  const FlashParams& p = task.p;
  if (task.order != nullptr) {
    constexpr int64_t kStep = 16;
    for (const auto* run = task.order->begin_runs(begin); run != task.order->end_runs(begin); ++run) {
      const int64_t tiles = (run->end - run->begin + tile_keys - 1) / tile_keys,
                    keys = ((run->end - run->begin + tiles - 1) / tiles + kStep - 1) / kStep * kStep;
      for (int64_t j = run->begin; j < run->end; j += keys) tile(j, std::min(j + keys, run->end));
    }
    return;
  }
  const MaskScope scope = scope_of(s, head);
  const auto walk = [&](int64_t j0, int64_t j1) {
    for (int64_t j = j0; j < j1;) {
      const int64_t next = std::min(j1, (j / tile_keys + 1) * tile_keys);
      tile(j, next);
      j = next;
    }
  };
  if (p.blocks != nullptr) {
    const BlockList& list = *p.blocks;
    const int64_t row = list_row(list, s.index, head, begin / list.query_block);
    for (int64_t c = list.offsets[row]; c < list.offsets[row + 1];) {
      // Neighbouring blocks are one run, so that a list of everything is cut as no list is.
      int64_t last = c;
      while (last + 1 < list.offsets[row + 1] && list.columns[last + 1] == list.columns[last] + 1) ++last;
      walk(std::min(list.columns[c] * list.key_block, s.num_keys),
           std::min((list.columns[last] + 1) * list.key_block, s.num_keys));
      c = last + 1;
    }
    return;
  }
  // Spans that nobody sees are left out at once, so that a window's cost does not grow with the sequence.
  const auto bisect = [&](const auto& self, int64_t j0, int64_t j1) -> void {
    const Coverage seen = p.mask.classify_quickly(scope, begin, end, j0, j1);
    if (seen == Coverage::empty) return;
    if (seen == Coverage::full || j1 - j0 <= tile_keys) return walk(j0, j1);
    const int64_t middle = j0 + (j1 - j0 + tile_keys) / (2 * tile_keys) * tile_keys;
    self(self, j0, middle);
    self(self, middle, j1);
  };
  if (s.num_keys > 0) bisect(bisect, 0, s.num_keys);
}

}  // namespace heed::kernels
