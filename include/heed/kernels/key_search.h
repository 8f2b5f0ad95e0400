// Searches for the keys that matter to a query, which look at a few keys of many: by halving (HiP, arXiv 2406.09827)
// and by jumps (Superlinear attention, arXiv 2601.18401).
#pragma once

#include <cstdint>

#include "heed/kernels/view.h"

namespace heed::kernels {

/// What both searches read. Query i stands at position i + M - N and is matched with no later key. q and k are both
/// float32 or both float64, with dense last dimensions; query head h reads KV head h * Hk / Hq. Scores are the plain
/// products <q, k>; NaN lies below everything.
struct SearchedKeys {
  AnyView q;                        ///< [B, Hq, N, D]
  AnyView k;                        ///< [B, Hk, M, D]
  const uint8_t* hidden = nullptr;  ///< [B, M] with rows of hidden_stride, optional: keys that are never matched
  int64_t hidden_stride = 0;
};

/// Which block of a node of key blocks is scored for it: its first, the one in its middle, or all of them, with which
/// the search finds the best blocks exactly.
enum class Representative : uint8_t { first, center, whole };

/// The key blocks of each query block, by halving: as many equal nodes as blocks are wanted begin as runs of the blocks
/// up to the query block's last position; each is split, the halves are scored, as many of the best stay, until every
/// node is one block. A block's score is the largest product of its keys with every `row_stride`-th row of the query
/// block; of equal ones the lower block stays.
struct TreeSearchParams {
  SearchedKeys keys;
  int64_t query_block = 32, key_block = 2;
  int64_t blocks = 256;  ///< wanted; all there are where they are fewer
  int64_t row_stride = 2;
  Representative representative = Representative::first;
  View<int32_t> lists;   ///< [B, Hq, ceil(N / query_block), blocks], overwritten: ascending, -1 behind the last
  View<int64_t> scored;  ///< [B, Hq, ceil(N / query_block), 1], optional: blocks that were scored
};

/// The `top` best of the keys at distances offsets[0] < offsets[1] < ... before each query.
struct JumpSearchParams {
  SearchedKeys keys;
  const int64_t* offsets = nullptr;
  int64_t num_offsets = 0;
  View<int32_t> anchors;  ///< [B, Hq, N, top], overwritten: the best first, of equal ones the lower; -1 where none is
};

void check(const TreeSearchParams& params);
void check(const JumpSearchParams& params);
/// O(blocks log(M / key_block / blocks)) scores a query block.
void tree_search(const TreeSearchParams& params);
/// O(offsets) scores a query.
void jump_search(const JumpSearchParams& params);

namespace reference {
// Scores in double, one by one.
void tree_search(const TreeSearchParams& params);
void jump_search(const JumpSearchParams& params);
}  // namespace reference

}  // namespace heed::kernels
