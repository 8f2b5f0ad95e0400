#include "heed/kernels/block_list.h"

#include <algorithm>
#include <bit>

#include "kernels/flash_problem.h"

namespace heed::kernels {
namespace {

int64_t tile_area(const Mask& mask, const MaskScope& scope, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  switch (mask.classify(scope, i0, i1, j0, j1)) {
    case Coverage::empty:
      return 0;
    case Coverage::full:
      return (i1 - i0) * (j1 - j0);
    case Coverage::partial:
      break;
  }
  int64_t pairs = 0;
  for (int64_t i = i0; i < i1; ++i) {
    for (int64_t j = j0; j < j1; j += 64) {
      const int64_t keys = std::min<int64_t>(64, j1 - j);
      const uint64_t inside = keys == 64 ? ~uint64_t{0} : (uint64_t{1} << keys) - 1;
      pairs += std::popcount(mask.row_bits(scope, i, j) & inside);
    }
  }
  return pairs;
}

}  // namespace

int64_t area(const BlockList& list, const Mask& mask, const MaskScope& scope) {
  int64_t pairs = 0;
  for (int64_t block = 0; block < list.query_blocks; ++block) {
    const int64_t i0 = block * list.query_block, i1 = std::min(i0 + list.query_block, scope.num_queries);
    const int64_t row = list_row(list, scope.batch, scope.head, block);
    for (int64_t c = list.offsets[row]; i0 < i1 && c < list.offsets[row + 1]; ++c) {
      const int64_t j0 = list.columns[c] * list.key_block, j1 = std::min(j0 + list.key_block, scope.num_keys);
      if (j0 < j1) pairs += tile_area(mask, scope, i0, i1, j0, j1);
    }
  }
  return pairs;
}

}  // namespace heed::kernels
