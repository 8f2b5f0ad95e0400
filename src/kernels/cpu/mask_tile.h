// What a mask leaves of one panel of queries against one tile of keys.
#pragma once

#include <cstdint>

#include "heed/kernels/mask.h"

namespace heed::kernels {

/// Keys [begin, end) of a tile are visible to some query of the panel; `masked`: not all to all, and bits say which.
struct TileCover {
  int64_t begin = 0, end = 0;
  bool masked = false;
  bool empty() const { return begin >= end; }
};

/// The bits of a tile, 64 keys after 64, and what they say together.
class TileBits {
 public:
  TileBits(uint32_t* bits, int64_t width, int64_t rows) : bits_(bits), width_(width), rows_(rows) {}

  /// Bit c of words[r]: row r sees key c of the next `keys`, 64 of them or the last.
  void add(const uint64_t* words, int64_t keys);
  /// The cover of keys [begin, end), whose bits have been added.
  TileCover cover(int64_t begin, int64_t end) const {
    return any_ == 0 ? TileCover{} : TileCover{begin, end, all_ != ~uint64_t{0}};
  }

 private:
  uint32_t* bits_;
  int64_t width_, rows_;
  uint64_t any_ = 0, all_ = ~uint64_t{0};
};

/// Rows [i0, i0 + rows) against keys [j0, j1). When masked, bit (j - begin) % 32 of bits[(j - begin) / 32 * width + r]
/// says whether row r sees key j; rows beyond `rows`, up to `width`, see nothing.
TileCover cover_tile(const Mask& mask, const MaskScope& scope, int64_t i0, int64_t rows, int64_t j0, int64_t j1,
                     int64_t width, uint32_t* bits);

}  // namespace heed::kernels
