// A few queries against a long cache: split evenly over workers, merged exactly. Serves every cache policy.
#pragma once

#include <cstdint>

#include "heed/kernels/mask.h"
#include "heed/kernels/view.h"
#include "heed/kernels/work_plan.h"

namespace heed::kernels {

/// Codes of fewer bits than a byte in place of elements: value = code * scale + zero. Slots are numbered through all
/// pages, page * page_size + slot of the page.
struct PackedCodes {
  int bits = 0;  ///< 2 or 4, unsigned, the first channel in a byte's lowest bits; 0: elements as they are
  const Half *scale = nullptr, *zero = nullptr;  ///< [slots / slot_group][D / channel_group], rounded up
  int64_t slot_group = 1, channel_group = 1;
  /// Optional: the `exact_group` slots of group g are exact[exact_of[g]] instead, where that isn't negative.
  const int32_t* exact_of = nullptr;  ///< [slots / exact_group], rounded up
  AnyView exact;                      ///< [E, exact_group, 1, D], f32, f16 or bf16, dense
  int64_t exact_group = 1;
};

/// Keys or values of all sequences, contiguous or in pages, possibly quantised. The last dimension is dense (stride 1).
struct CacheView {
  /// Contiguous: [B, Hkv, capacity, D]. Paged: [P, page_size, 1, D], a page belongs to one head. f32, f16, bf16 or i8.
  /// Packed: i8 [P, page_size, 1, D * bits / 8].
  AnyView data;
  /// Slot s of (sequence b, KV head h) is in page table[(b * Hkv + h) * table_stride + s / page_size]. Null:
  /// contiguous. A page size of 1 gathers single slots; pages may repeat and may be shared by heads and sequences.
  const int32_t* table = nullptr;
  int64_t table_stride = 0;
  int64_t page_size = 0;
  /// i8 storage only: value = stored * scale (+ zero). Contiguous [1|B, 1|Hkv, 1|slots, 1|channels], paged
  /// [1|P, 1|slots, 1, 1|channels], with slots = ceil(capacity or page_size / slot_group) and channels =
  /// ceil(D / channel_group): the scale axis is the caller's. Sizes of 1 broadcast.
  View<const float> scale;
  View<const float> zero;  ///< optional, sizes by the same rule
  int64_t slot_group = 1, channel_group = 1;
  PackedCodes packed;  ///< of pages only, without `scale` and `zero`

  /// D.
  int64_t channels() const { return packed.bits == 0 ? data.size[3] : data.size[3] * 8 / packed.bits; }
};

/// Rotation applied to keys when they are read (caches that store unrotated keys). Queries come rotated. Angles are
/// position * frequency in double precision.
struct ReadRotation {
  const float* inverse_frequencies = nullptr;  ///< [rotated / 2]; null: keys are stored as they are used
  int64_t rotated = 0;                         ///< rotated leading dimensions of D, even
  bool interleaved = false;                    ///< pairs (2i, 2i + 1); otherwise (i, i + rotated / 2)
  /// Position of slot s: positions[(b * Hkv + h) * positions_stride + s]; null: s itself.
  const int64_t* positions = nullptr;
  int64_t positions_stride = 0;
};

/// Softmax over the real slots [0, length) of each (sequence, KV head) and then the synthetic slots. The order of
/// scale, soft cap, biases and mask is that of docs/semantics.md.
struct DecodeParams {
  AnyView q;    ///< [B, Hq, N, D] f32, f16 or bf16; any N, made for N of 1 to 16
  CacheView k;  ///< Hkv heads; Hq a multiple of Hkv; query head h reads KV head h / (Hq / Hkv)
  CacheView v;  ///< own storage type, pages and table
  AnyView out;  ///< [B, Hq, N, Dv], dtype of q, or f32 where partial results are merged afterwards
  AnyView lse;  ///< float [B, Hq, N, 1], optional
  int64_t num_kv_heads = 0;

  /// Valid slots: lengths[b * lengths_stride_b + h * lengths_stride_h] (stride_h 0: shared by the heads).
  /// Null: the capacity of contiguous storage.
  const int64_t* lengths = nullptr;
  int64_t lengths_stride_b = 1, lengths_stride_h = 0;

  double scale = 0;  ///< 0: 1 / sqrt(D)
  /// Asked with j = slot and i' = i + length - N: the last rows sit on the last slots. See slot_positions.
  Mask mask = Causal{};
  double softcap = 0;
  const float* alibi_slopes = nullptr;  ///< [Hq]: adds -slope * |i' - j|
  View<const float> slot_bias;          ///< [1|B, 1|Hq, 1, slots], added to the logits of real slots
  View<const float> sink_logit;         ///< [1, Hq, 1, 1]: one more key of value 0
  ReadRotation rotation;

  /// After an eviction a slot is not a position. When given, mask and ALiBi see j =
  /// slot_positions[(b * Hkv + h) * slot_positions_stride + s] and i' = i + context_lengths[b] - N.
  const int64_t* slot_positions = nullptr;
  int64_t slot_positions_stride = 0;
  const int64_t* context_lengths = nullptr;  ///< [B]: tokens of the sequence so far, the N of q included

  /// Extra keys and values not tied to a token, visible to every row, never rotated, without ALiBi:
  /// float [1|B, 1|Hkv, S, D] and [1|B, 1|Hkv, S, Dv], dense last dimension.
  View<const float> synthetic_k, synthetic_v;
  View<const float> synthetic_bias;  ///< [1|B, 1|Hq, 1, S]

  /// Optional functionals of the weights of real slots (sink and synthetic slots count in the normalisation),
  /// overwritten. Float [B, Hkv, 1, slots], summed over the N rows and the query heads of the group, or [B, Hq, 1,
  /// slots], over the N rows. Slots beyond the length are 0.
  View<float> column_sum;
  View<int64_t> arg_max;          ///< [B, Hq, N, 1]: real slot of the largest weight, lowest on ties; -1: none above 0
  int64_t* slots_read = nullptr;  ///< [1]: how many key rows of the cache were visited; tiles the mask hides are not
};

/// Throws heed::Error naming what does not fit. Called by every entry below.
void check(const DecodeParams& params);
/// Runs a stream-K plan that is a function of the shapes: the number of threads does not change a bit. Extra memory: a
/// few tiles per thread and two partial results per worker of the plan; with column_sum also 4 bytes per (query row,
/// slot).
void decode(const DecodeParams& params);
/// Runs a plan made from this call's lengths, ordered by (sequence, KV head). Results agree over plans up to rounding.
void decode(const DecodeParams& params, const WorkPlan& plan);

/// Lengths of all (sequence, KV head) rows in the order a plan wants.
std::vector<int64_t> row_lengths(const DecodeParams& params);

namespace reference {
void decode(const DecodeParams& params);  ///< the formula in double, slot by slot; q, k, v, out, lse may also be f64
}

}  // namespace heed::kernels
