#include "kernels/panel_order.h"

#include <algorithm>
#include <array>
#include <bit>

#include "kernels/cpu/flash_task.h"

namespace heed::kernels {
namespace {

/// 64 bits of a row of `words` words from bit `at` on; 0 beyond its end.
uint64_t bits_from(const uint64_t* row, int64_t words, int64_t at) {
  const int64_t word = at / 64, shift = at % 64;
  const uint64_t low = row[word] >> shift;
  return shift == 0 || word + 1 >= words ? low : low | row[word + 1] << (64 - shift);
}

}  // namespace

PanelOrder::PanelOrder(const KeyPanels& panels, int64_t list_row, int64_t first, int64_t last, const uint64_t* seen) {
  block_rows_ = panels.block;
  const int64_t *offsets = panels.offsets + list_row, base = offsets[first];
  key_rows_.assign(panels.keys + base, panels.keys + offsets[last]);
  for (int64_t i = first * panels.block; i < last * panels.block; ++i)
    query_rows_.push_back(i < panels.queries ? static_cast<int32_t>(i) : -1);
  for (int64_t t = first; t < last; ++t) {
    const int64_t begin = offsets[t] - base, keys = offsets[t + 1] - offsets[t];
    blocks_.push_back({begin, keys, seen});
    // Cut where tiles are, so that more keys at the end move none of a query's keys to another tile, nor a bit of it.
    for (int64_t j = begin; j < begin + keys; j += kForwardKeys)
      runs_.push_back({j, std::min(j + kForwardKeys, begin + keys)});
    offsets_.push_back(static_cast<int64_t>(runs_.size()));
    seen += words_of_block(panels, keys);
  }
}

TileCover PanelOrder::cover(int64_t, int64_t i0, int64_t rows, int64_t j0, int64_t j1, int64_t width,
                            uint32_t* bits) const {
  const Block& block = blocks_[i0 / block_rows_];
  const int64_t words = (block.keys + 63) / 64;
  const uint64_t* const seen = block.seen + i0 % block_rows_ * words;
  int64_t begin = j0 - block.first_key, end = j1 - block.first_key;
  // Keys that none of the rows sees are cut off both ends, a few at a time.
  const auto seen_by_some = [&](int64_t at) {
    uint64_t some = 0;
    for (int64_t r = 0; r < rows; ++r) some |= bits_from(seen + r * words, words, at);
    return end - at >= 64 ? some : some & ((uint64_t{1} << (end - at)) - 1);
  };
  constexpr int64_t kGroup = 8;
  uint64_t some = 0;
  while (begin < end && (some = seen_by_some(begin)) == 0) begin += 64;
  if (begin >= end) return {};
  begin += std::countr_zero(some) / kGroup * kGroup;
  while ((some = seen_by_some(std::max(begin, end - 64))) == 0) end -= 64;
  const int64_t last = std::max(begin, end - 64);
  end = std::min(end, last + 64 - std::countl_zero(some));

  TileBits tile(bits, width, rows);
  std::array<uint64_t, 64> row_words;
  for (int64_t at = begin; at < end; at += 64) {
    for (int64_t r = 0; r < rows; ++r) row_words[r] = bits_from(seen + r * words, words, at);
    tile.add(row_words.data(), std::min<int64_t>(64, end - at));
  }
  return tile.cover(block.first_key + begin, block.first_key + end);
}

}  // namespace heed::kernels
