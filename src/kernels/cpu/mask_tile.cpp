#include "kernels/cpu/mask_tile.h"

#include <algorithm>
#include <array>

#include "kernels/mask_reach.h"

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
  // Keys that nobody sees are cut off both ends, a few at a time: the edges of a band then waste little.
  constexpr int64_t kGroup = 8;
  const KeyRange reach = mask_reach(mask, scope, i0, i1, j0, j1);
  j0 += (reach.begin - j0) / kGroup * kGroup, j1 = reach.end;
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
