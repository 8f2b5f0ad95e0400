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

}  // namespace heed::kernels
