// One decode call, resolved: what the threads share, and the entries behind the dispatch.
#pragma once

#include <vector>

#include "heed/kernels/decode.h"
#include "kernels/cpu/scratch.h"

namespace heed::kernels {

/// Slots that are treated at once: their logits, keys and values stay in the inner caches.
inline constexpr int64_t kStepSlots = 128;

/// Where an int8 scale can be applied: after the product, in the query (or to the output), or only element by element.
enum class ScaleUse : uint8_t { none, per_slot, per_channel, general };

/// Keys or values with everything about them that does not depend on the row.
struct SlotSource {
  /// `elementwise_zero`: a zero point cannot wait until after the product; `elementwise_scale`: nor can a channel
  /// scale.
  SlotSource(const CacheView& view, int64_t heads, bool elementwise_scale, bool elementwise_zero);

  CacheView cache;
  int64_t kv_heads, width;
  ScaleUse scale_use = ScaleUse::none;

  /// Where slot s of (sequence b, KV head h) lies: indices of the first two or three dimensions of data, scale and
  /// zero.
  struct Place {
    int64_t first, second, third;
  };
  Place place(int64_t b, int64_t h, int64_t s) const {
    if (cache.table == nullptr) return {b, h, s};
    return {cache.table[(b * kv_heads + h) * cache.table_stride + s / cache.page_size], s % cache.page_size, 0};
  }
  const char* row(int64_t b, int64_t h, int64_t s) const {
    const auto [i, j, k] = place(b, h, s);
    const auto& stride = cache.data.stride;
    const int64_t offset = i * stride[0] + j * stride[1] + k * stride[2];
    return static_cast<const char*>(cache.data.data) + offset * static_cast<int64_t>(size_of(cache.data.dtype));
  }
  /// The scale's (or zero point's) row of channels for slot s.
  const float* channels(const View<const float>& view, int64_t b, int64_t h, int64_t s) const {
    auto [i, j, k] = place(b, h, s);
    (cache.table == nullptr ? k : j) /= cache.slot_group;
    const auto at = [&](int axis, int64_t index) { return view.size[axis] == 1 ? 0 : index * view.stride[axis]; };
    return view.data + at(0, i) + at(1, j) + at(2, k);
  }
};

/// cos and sin of (0 .. kPeriod - 1) * frequency: with those of a multiple of kPeriod they give every angle.
struct RotationTable {
  static constexpr int64_t kPeriod = 256;
  explicit RotationTable(const ReadRotation& rotation);

  int64_t half = 0;
  std::vector<float> cosine, sine;  ///< [kPeriod][half]
};

/// Running softmax of the `query_rows` rows of one (sequence, KV head): o is not yet divided by sum.
struct RowState {
  RowState() = default;
  RowState(Arena& arena, int64_t query_rows, int64_t dv)
      : stride((dv + 15) / 16 * 16),
        o(arena.take<float>((query_rows + kRowPadding) * stride)),
        maximum(arena.take<float>(query_rows + kRowPadding)),
        sum(arena.take<float>(query_rows + kRowPadding)),
        best(arena.take<float>(query_rows)),
        best_slot(arena.take<int64_t>(query_rows)) {}

  /// Register tiles may carry up to this many rows that nobody asked for.
  static constexpr int64_t kRowPadding = 16;
  int64_t stride = 0;
  float *o = nullptr, *maximum = nullptr, *sum = nullptr, *best = nullptr;
  int64_t* best_slot = nullptr;
};

struct DecodeCall {
  explicit DecodeCall(const DecodeParams& params);

  const DecodeParams& p;
  int64_t batch, heads, kv_heads, group, rows, d, dv;
  int64_t query_rows;  ///< group * rows: row h * rows + i of a (sequence, KV head)
  double scale;
  std::vector<int64_t> lengths;  ///< per (sequence, KV head)
  SlotSource keys, values;
  SlotSource synthetic_keys, synthetic_values;  ///< without data when there are none
  RotationTable rotation;
  /// With column_sum: every logit, [query_rows][length] per (sequence, KV head) from logit_begin.
  std::vector<int64_t> logit_begin;
  Block logit_block;
  float* logits = nullptr;
};

/// Slots [begin, end) of a row joined to nothing: `state` is overwritten. Returns how many key rows were visited.
/// `scratch`: decode_scratch_bytes(call), 64-byte aligned.
int64_t run_slots(const DecodeCall& call, int64_t row, int64_t begin, int64_t end, const RowState& state,
                  void* scratch);
int64_t decode_scratch_bytes(const DecodeCall& call);
/// Merges `count` parts in order, then synthetic slots and the sink, into parts[0], and writes all outputs of the row.
void finish_row(const DecodeCall& call, int64_t row, const RowState* parts, int64_t count, void* scratch);

}  // namespace heed::kernels
