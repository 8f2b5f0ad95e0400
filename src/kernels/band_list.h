// Which entries of a band belong to a token: as the one that sees, and as the one that is seen.
#pragma once

#include <vector>

#include "heed/kernels/neighborhood.h"

namespace heed::kernels {

/// A token, and the place in a band's row of the pair it makes with the token asked for.
struct BandEntry {
  int32_t token, place;
};

class BandLists {
 public:
  explicit BandLists(const Neighborhood& around);

  /// Keys that token i sees; their places are in its own row.
  void keys_of(int64_t i, std::vector<BandEntry>& entries) const;
  /// Tokens that see token j; places are in their rows.
  void seeing(int64_t j, std::vector<BandEntry>& entries) const;

 private:
  /// Along one axis: cell `cell` is seen at or sees from offset `offset` of a window.
  struct Step {
    int32_t cell, offset;
  };
  void combine(const std::array<const std::vector<Step>*, 3>& steps, std::vector<BandEntry>& entries) const;

  std::array<int64_t, 3> lengths_{}, windows_{};
  std::array<std::vector<std::vector<Step>>, 3> keys_, seeing_;  ///< [axis][cell]
};

/// Throws heed::Error for tensors that do not fit. `rows` [B, H, N, D], `keys` [B, Hk, N, D].
void check_band(const Neighborhood& around, const AnyView& band, const AnyView& rows, const AnyView& keys);

}  // namespace heed::kernels
