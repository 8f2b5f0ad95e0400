#include <bit>

#include "kernels/flash_problem.h"

namespace heed::kernels {

int64_t visible_pairs(const FlashParams& p) {
  int64_t pairs = 0;
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    const Sequence sequence = sequence_at(p, s);
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      const MaskScope scope = scope_of(sequence, h);
      pairs += p.blocks != nullptr ? area(*p.blocks, p.mask, scope) : p.mask.area(scope);
    }
  }
  return pairs;
}

int64_t visible_keys(const FlashParams& p, const Sequence& s, int64_t head, int64_t i) {
  const MaskScope scope = scope_of(s, head);
  int64_t keys = 0;
  const auto count = [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += 64) {
      uint64_t bits = p.mask.row_bits(scope, i, j);
      if (end - j < 64) bits &= (uint64_t{1} << (end - j)) - 1;
      keys += std::popcount(bits);
    }
  };
  if (p.blocks == nullptr) {
    count(0, s.num_keys);
    return keys;
  }
  const BlockList& list = *p.blocks;
  const int64_t row = list_row(list, s.index, head, i / list.query_block);
  for (int64_t c = list.offsets[row]; c < list.offsets[row + 1]; ++c) {
    const int64_t begin = list.columns[c] * list.key_block;
    count(std::min(begin, s.num_keys), std::min(begin + list.key_block, s.num_keys));
  }
  return keys;
}

}  // namespace heed::kernels
