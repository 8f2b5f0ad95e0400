// Which key blocks each query block of each head visits: the index of block-sparse attention.
#pragma once

#include <cstdint>

#include "heed/kernels/mask.h"

namespace heed::kernels {

/// CSR lists. For list row r = (b * heads + h) * query_blocks + qb the key blocks are columns[offsets[r] ..
/// offsets[r+1]), ascending and without repeats. `batch` and `heads` may be 1 to share lists. The mask still applies
/// inside a block. Any block sizes >= 1; the last blocks may be partial. A row without blocks gives output 0 and lse
/// -inf.
struct BlockList {
  const int64_t* offsets = nullptr;  ///< [batch * heads * query_blocks + 1]
  const int32_t* columns = nullptr;  ///< [offsets.back()]
  int64_t batch = 1;                 ///< 1 or B
  int64_t heads = 1;                 ///< 1 or Hq
  int64_t query_blocks = 0;          ///< ceil(N / query_block)
  int64_t key_blocks = 0;            ///< ceil(M / key_block)
  int64_t query_block = 64;
  int64_t key_block = 64;
};

/// Number of pairs of one (batch item, head) that lie in a listed block and that the mask shows: what the lists leave
/// to be done.
int64_t area(const BlockList& list, const Mask& mask, const MaskScope& scope);

}  // namespace heed::kernels
