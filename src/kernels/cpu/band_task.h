// One row of a band against the rows of its entries.
#pragma once

#include "kernels/band_list.h"

namespace heed::kernels {

struct BandRow {
  const BandEntry* entries;
  int64_t count;
  const float* rows;  ///< of the entries' tokens: row t begins at rows + t * stride
  int64_t stride, columns;
};

/// to[place] = scale <row, row of token> for every entry.
void band_row_scores(const BandRow& of, const float* row, float scale, float* to);
/// to [columns] += sum over entries of weights[e] * row of its token.
void band_row_sums(const BandRow& of, const float* weights, float* to);
/// Row of the token of every entry, in `to` as in of.rows, += weights[e] * row [columns].
void band_row_adds(const BandRow& of, const float* weights, const float* row, float* to);

}  // namespace heed::kernels
