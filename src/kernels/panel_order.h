// The blocks of one chooser as the engine walks them: queries in their order, keys block after block.
#pragma once

#include "heed/kernels/panel_attention.h"
#include "kernels/tile_order.h"

namespace heed::kernels {

/// Words that the bits of a block take.
inline int64_t words_of_block(const KeyPanels& panels, int64_t keys) { return panels.block * ((keys + 63) / 64); }

/// Blocks [first, last) of a chooser. Query slots are their rows, the last ones perhaps none; key slots are the keys of
/// one block after those of another, so a row of keys may have many slots.
class PanelOrder final : public TileOrder {
 public:
  /// `list_row`: of the chooser's block 0. `seen`: the bits of block `first`.
  PanelOrder(const KeyPanels& panels, int64_t list_row, int64_t first, int64_t last, const uint64_t* seen);

  TileCover cover(int64_t batch, int64_t i0, int64_t rows, int64_t j0, int64_t j1, int64_t width,
                  uint32_t* bits) const override;
  const int32_t* key_gradient_rows() const override { return nullptr; }

 private:
  struct Block {
    int64_t first_key, keys;  ///< slots
    const uint64_t* seen;     ///< [block rows][words]
  };
  std::vector<Block> blocks_;
};

}  // namespace heed::kernels
