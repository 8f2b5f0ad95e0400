// From rows of scores to lists of indices: top-k, top-p, pooling before them, unions after them.
#pragma once

#include "heed/kernels/slot_scores.h"

namespace heed::kernels {

/// Rows of scores, of which some entries exist: lengths[b * stride_b + h * stride_h + r * stride_r], null: all S.
struct ScoreRows {
  View<const float> values;  ///< [B, H, R, S], dense last dimension
  const int64_t* lengths = nullptr;
  int64_t stride_b = 1, stride_h = 0, stride_r = 0;
};

/// Lists of indices: ascending, without repeats, -1 behind the last.
struct IndexLists {
  View<int32_t> indices;  ///< [B, H, R, K], dense last dimension
  View<int64_t> counts;   ///< [B, H, R, 1], optional
};

/// The `k` largest entries of each row; of equal ones the lower index. NaN lies below -inf, -0 equals 0. The `first`
/// and `last` entries of a row are always taken; they count in k, and where they are more than k it grows to their
/// number. Rows of at most k entries are taken whole.
struct TopKParams {
  ScoreRows scores;
  int64_t k = 0;
  int64_t first = 0, last = 0;
  IndexLists lists;  ///< overwritten; K at least min(S, max(k, first + last))
};

/// The smallest set of largest entries (order and ties as above) that holds `mass` of the row's sum, and the `first`
/// and `last` entries, whose weight counts; then at least `least` and at most `most` entries, forced ones never given
/// up. Weights that are NaN or below 0 count as 0. A mass of 1 or more takes the whole row, whatever its rounding.
struct TopPParams {
  ScoreRows scores;
  double mass = 0.9;
  int64_t first = 0, last = 0;
  int64_t least = 0, most = INT64_MAX;
  IndexLists lists;  ///< overwritten; K at least min(S, max(most, first + last))
};

/// out[s] = mean or maximum of in[s - width / 2 .. s + width / 2] inside the row, stride 1.
struct PoolParams {
  enum class Kind : uint8_t { average, max };
  /// What an average divides by at the ends of a row: `width`, as if zeros lay beyond (SnapKV's release), or the number
  /// of entries inside.
  enum class Edges : uint8_t { zeros, corrected };
  ScoreRows in;
  Kind kind = Kind::average;
  Edges edges = Edges::zeros;
  int64_t width = 5;  ///< odd
  View<float> out;    ///< size of in, dense last dimension, not overlapping it; entries beyond a row's length get -inf
};

void check(const TopKParams& params);
void check(const TopPParams& params);
void check(const PoolParams& params);

/// O(S) a row: a radix selection, no sort.
void top_k(const TopKParams& params);
void top_p(const TopPParams& params);
void pool(const PoolParams& params);

/// Scores of consecutive heads [B, H * g, R, S] become those of their group [B, H, R, S]; last dimensions dense.
void reduce_heads(const View<const float>& scores, HeadReduction reduction, const View<float>& reduced);

/// The union over each group of consecutive heads: lists [B, H * g, R, K] to [B, H, R, K']. Entries below 0 are
/// passed over, so lists may be padded in any way. Throws heed::Error where a union has more than K' entries.
void unite_heads(const View<const int32_t>& lists, const IndexLists& united);

namespace reference {
// By sorting, in double.
void top_k(const TopKParams& params);
void top_p(const TopPParams& params);
void pool(const PoolParams& params);
}  // namespace reference

}  // namespace heed::kernels
