// How well queries match the slots of a cache: the scores that a cache policy selects by.
#pragma once

#include "heed/kernels/decode.h"

namespace heed::kernels {

/// What becomes of the scores of several query heads. A NaN among them makes the result NaN.
enum class HeadReduction : uint8_t { none, mean, max, sum };

/// score = scale * <q, k_slot>, float32; with `softmax` its weight among the candidates of its query row. Candidates
/// of query row n are the slots from `begin` to below length - exclude_last and row_limits[n]; every other slot scores
/// -inf, or weight 0. A NaN or +inf score makes all weights of its row NaN.
struct SlotScoresParams {
  AnyView q;    ///< [B, Hq, N, D] f32, f16 or bf16
  CacheView k;  ///< Hkv heads; Hq a multiple of Hkv; query head h reads KV head h / (Hq / Hkv)
  int64_t num_kv_heads = 0;

  /// Valid slots: lengths[b * lengths_stride_b + h * lengths_stride_h]. Null: the capacity of contiguous storage.
  const int64_t* lengths = nullptr;
  int64_t lengths_stride_b = 1, lengths_stride_h = 0;

  double scale = 0;                     ///< 0: 1 / sqrt(D)
  ReadRotation rotation;                ///< default: keys as they are stored
  int64_t begin = 0, exclude_last = 0;  ///< slots at both ends that are no candidates
  const int64_t* row_limits = nullptr;  ///< [N], optional
  bool softmax = false;
  HeadReduction heads = HeadReduction::none;
  /// [B, H, N, S], overwritten, dense last dimension, S at least the largest length. H is Hq without a reduction; with
  /// one it is Hkv (over the query heads of a group) or 1 (over all; then every KV head has the same length).
  View<float> scores;
};

/// Throws heed::Error naming what does not fit. Called by every entry below.
void check(const SlotScoresParams& params);
/// Reads every key once for all query heads of its group. Extra memory: a few tiles a thread, and with `softmax` 4
/// bytes per (query row, slot). The number of threads does not change a bit.
void slot_scores(const SlotScoresParams& params);

namespace reference {
void slot_scores(const SlotScoresParams& params);  ///< slot by slot in double; q and k may also be f64
}

}  // namespace heed::kernels
