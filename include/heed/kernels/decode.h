// A few queries against a long cache: split evenly over workers, merged exactly. Serves every cache policy.
#pragma once

#include <cstdint>
#include <vector>

#include "heed/kernels/mask.h"
#include "heed/kernels/scores.h"
#include "heed/kernels/view.h"

namespace heed::kernels {

/// Keys or values of all sequences, contiguous or in pages, possibly quantised.
struct CacheView {
  /// Contiguous: [B, Hkv, capacity, D]. Paged: [P, page, 1, D] per head pool, see `table`. Storage f32, f16, bf16 or i8.
  AnyView data;
  /// Paged: page of slot s of (sequence b, KV head h) is table[(b * Hkv + h) * table_stride + s / page_size]. Null: contiguous.
  const int32_t* table = nullptr;
  int64_t table_stride = 0;
  int64_t page_size = 0;
  /// i8 storage: value = stored * scale. Sizes of 1 broadcast, so the scale axis is the caller's:
  /// contiguous [1|B, 1|Hkv, 1|capacity, 1|D]; paged [1|P, 1|page, 1, 1|D].
  View<const float> scale;
};

/// Rotation applied to keys when they are read (caches that store unrotated keys). Half-split pairs.
struct ReadRotation {
  const float* inverse_frequencies = nullptr;  ///< [rotated / 2]; null: keys are stored as they are used
  int64_t rotated = 0;                         ///< rotated leading dimensions of D
  /// Position of slot s: positions[(b * Hkv + h) * positions_stride + s]; null: s itself.
  const int64_t* positions = nullptr;
  int64_t positions_stride = 0;
};

/// Softmax over the real slots [0, length) of each (sequence, KV head) and then the synthetic slots.
struct DecodeParams {
  AnyView q;          ///< [B, Hq, N, D] f32, f16 or bf16; N small (1 .. 16)
  CacheView k, v;     ///< Hkv heads; Hq a multiple of Hkv; query head h reads KV head h / (Hq / Hkv)
  AnyView out;        ///< [B, Hq, N, Dv], dtype of q
  AnyView lse;        ///< float [B, Hq, N, 1], optional
  int64_t num_kv_heads = 0;

  /// Valid slots: lengths[b * lengths_stride_b + h * lengths_stride_h] (stride_h 0: shared by the heads).
  const int64_t* lengths = nullptr;
  int64_t lengths_stride_b = 1, lengths_stride_h = 0;

  double scale = 0;   ///< 0: 1 / sqrt(D)
  Mask mask;          ///< asked with i' = i + length - N; default: Causal, so that row N-1 sees every slot
  double softcap = 0;
  const float* alibi_slopes = nullptr;  ///< [Hq]
  View<const float> slot_bias;          ///< [1|B, 1|Hq, 1, capacity], added to the logits of real slots
  View<const float> sink_logit;         ///< [1, Hq, 1, 1]
  ReadRotation rotation;

  /// Extra keys and values not tied to a token, visible to every row: float [1|B, Hkv, S, D] and [1|B, Hkv, S, Dv].
  View<const float> synthetic_k, synthetic_v;
  View<const float> synthetic_bias;     ///< [1|B, 1|Hq, 1, S]

  /// Optional functionals of the weights, per real slot, over the query rows: float [B, Hkv, 1, capacity], overwritten;
  /// the sum runs over the N rows and the query heads of the group. Slots beyond the length are 0.
  View<float> column_sum;
  View<int64_t> arg_max;                ///< [B, Hq, N, 1]: slot of the largest weight, -1 when nothing is visible
};

/// How the units (KV tiles) of all (sequence, KV head) rows are cut over workers. Results do not depend on it.
struct WorkPlan {
  enum class Split : uint8_t { stream_k, fixed, none };
  struct Segment { int64_t row, begin, end; };           ///< units [begin, end) of one row
  std::vector<std::vector<Segment>> workers;             ///< consecutive units per worker
  int64_t tile = 0;                                      ///< slots per unit
  int64_t units = 0;
  double efficiency() const;                             ///< units / (workers * most units of one worker)
};

/// `lengths` [rows]: slots per row. Stream-K gives every worker floor or ceil of units / workers, in order.
WorkPlan make_work_plan(const std::vector<int64_t>& lengths, int64_t tile, int workers,
                        WorkPlan::Split split = WorkPlan::Split::stream_k);

void check(const DecodeParams& params);
/// Plans with the current thread count and runs.
void decode(const DecodeParams& params);
void decode(const DecodeParams& params, const WorkPlan& plan);

namespace reference {
void decode(const DecodeParams& params);  ///< the formula in double, slot by slot
}

}  // namespace heed::kernels
