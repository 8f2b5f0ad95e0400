#include "kernels/cpu/mask_tile.h"

#include <algorithm>
#include <array>

namespace heed::kernels {

void TileBits::add(const uint64_t* words, int64_t keys) {
  const uint64_t valid = keys >= 64 ? ~uint64_t{0} : (uint64_t{1} << keys) - 1;
  uint32_t* low = bits_;
  uint32_t* high = keys > 32 ? low + width_ : nullptr;
  for (int64_t r = 0; r < rows_; ++r) {
    const uint64_t word = words[r] & valid;
    any_ |= word, all_ &= word | ~valid;
    low[r] = static_cast<uint32_t>(word);
    if (high != nullptr) high[r] = static_cast<uint32_t>(word >> 32);
  }
  std::fill(low + rows_, low + width_, 0u);
  if (high != nullptr) std::fill(high + rows_, high + width_, 0u);
  bits_ += 2 * width_;
}

TileCover cover_tile(const Mask& mask, const MaskScope& scope, int64_t i0, int64_t rows, int64_t j0, int64_t j1,
                     int64_t width, uint32_t* bits) {
  const int64_t i1 = i0 + rows;
  const Coverage quick = mask.classify_quickly(scope, i0, i1, j0, j1);
  if (quick == Coverage::empty) return {};
  if (quick == Coverage::full) return {j0, j1, false};
  // Groups of keys that nobody sees are cut off both ends, large ones first: the edges of a band then waste little.
  for (const int64_t group : {64, 8}) {
    while (j0 < j1 && mask.classify_quickly(scope, i0, i1, j0, std::min(j0 + group, j1)) == Coverage::empty)
      j0 += group;
    while (j0 < j1 && mask.classify_quickly(scope, i0, i1, std::max(j1 - group, j0), j1) == Coverage::empty)
      j1 -= group;
  }
  if (j0 >= j1) return {};

  TileBits tile(bits, width, rows);
  std::array<uint64_t, 64> words{};
  for (int64_t j = j0; j < j1; j += 64) {
    if (mask.classify_quickly(scope, i0, i1, j, std::min(j + 64, j1)) == Coverage::full) {
      words.fill(~uint64_t{0});
    } else {
      mask.block_bits(scope, i0, rows, j, words.data());
    }
    tile.add(words.data(), std::min<int64_t>(64, j1 - j));
  }
  return tile.cover(j0, j1);
}

}  // namespace heed::kernels
