// What the entries about rows of scores share: the walk over rows, the order of scores, the forced entries.
#pragma once

#include <algorithm>
#include <bit>
#include <vector>

#include "heed/kernels/select.h"

namespace heed::kernels {

/// One row and how much of it exists.
struct ScoreRow {
  int64_t b, h, r;
  const float* values;
  int64_t length;
};

inline ScoreRow score_row(const ScoreRows& rows, int64_t index) {
  const auto& size = rows.values.size;
  const int64_t b = index / (size[1] * size[2]), h = index / size[2] % size[1], r = index % size[2];
  return {b, h, r, rows.values.row(b, h, r),
          rows.lengths == nullptr ? size[3] : rows.lengths[b * rows.stride_b + h * rows.stride_h + r * rows.stride_r]};
}
inline int64_t count_rows(const ScoreRows& rows) {
  return rows.values.size[0] * rows.values.size[1] * rows.values.size[2];
}
template <class Visit>
void each_score_row(const ScoreRows& rows, const Visit& visit) {
  for (int64_t index = 0; index < count_rows(rows); ++index) visit(score_row(rows, index));
}

/// Entries [0, first) and [last, length) of a row are always taken.
struct Forced {
  int64_t first, last;
  Forced(int64_t first_count, int64_t last_count, int64_t length)
      : first(std::min(first_count, length)), last(std::max(first, length - std::min(last_count, length))) {}
  int64_t count(int64_t length) const { return first + length - last; }
};

/// The most entries that a list of these rows can have: sums of absurd counts must not overflow.
inline int64_t list_capacity(const ScoreRows& rows, int64_t k, int64_t first, int64_t last) {
  const int64_t size = rows.values.size[3];
  return std::min(size, std::max(k, std::min(first, size) + std::min(last, size)));
}

/// Larger for larger scores, 0 for NaN, equal for both zeros.
inline uint32_t order_of(float score) {
  if (score != score) return 0;
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// Weights of a mass: NaN and negative ones count as 0.
inline float weight_in_mass(float weight) { return weight > 0 ? weight : 0.0f; }

void check_reduction(const View<const float>& scores, HeadReduction reduction, const View<float>& reduced);
void check_union(const View<const int32_t>& lists, const IndexLists& united);

inline void write_list(const IndexLists& lists, const ScoreRow& row, const int32_t* indices, int64_t count) {
  int32_t* to = lists.indices.row(row.b, row.h, row.r);
  if (indices != to) std::copy_n(indices, count, to);
  std::fill(to + count, to + lists.indices.size[3], -1);
  if (lists.counts) lists.counts.at(row.b, row.h, row.r) = count;
}

}  // namespace heed::kernels
