// One decode call, resolved: what the threads share, and the entries behind the dispatch.
#pragma once

#include <algorithm>
#include <vector>

#include "heed/kernels/decode.h"
#include "kernels/cpu/scratch.h"

namespace heed::kernels {

/// Slots that are treated at once: their logits, keys and values stay in the inner caches.
inline constexpr int64_t kStepSlots = 128;

/// Where an int8 scale can be applied: after the product, in the query (or to the output), or only element by element,
/// as packed codes are read.
enum class ScaleUse : uint8_t { none, per_slot, per_channel, general };

/// Keys or values with everything about them that does not depend on the row.
struct SlotSource {
  /// `elementwise_zero`: a zero point cannot wait until after the product; `elementwise_scale`: nor can a channel
  /// scale.
  SlotSource(const CacheView& view, int64_t heads, bool elementwise_scale, bool elementwise_zero);

  CacheView cache;
  int64_t kv_heads, width;
  ScaleUse scale_use = ScaleUse::none;

  /// Of a slot as it lies in memory.
  int64_t row_bytes() const { return cache.data.size[3] * static_cast<int64_t>(size_of(cache.data.dtype)); }

  /// Where slot s of (sequence b, KV head h) lies: indices of the first two or three dimensions of data, scale and
  /// zero.
  struct Place {
    int64_t first, second, third;
  };
  const char* row(const Place& at) const {
    const auto& stride = cache.data.stride;
    const int64_t offset = at.first * stride[0] + at.second * stride[1] + at.third * stride[2];
    return static_cast<const char*>(cache.data.data) + offset * static_cast<int64_t>(size_of(cache.data.dtype));
  }
  /// The scale's (or zero point's) row of channels for the slot that lies there.
  const float* channels(const View<const float>& view, Place at) const {
    int64_t& slot = cache.table == nullptr ? at.third : at.second;
    if (cache.slot_group != 1) slot /= cache.slot_group;
    const auto step = [&](int axis, int64_t index) { return view.size[axis] == 1 ? 0 : index * view.stride[axis]; };
    return view.data + step(0, at.first) + step(1, at.second) + step(2, at.third);
  }
  /// Calls visit(k, place) for ascending slots[0 .. count): a division a page, not a slot.
  template <class Visit>
  void each_place(int64_t b, int64_t h, const int64_t* slots, int64_t count, const Visit& visit) const {
    if (cache.table == nullptr) {
      for (int64_t k = 0; k < count; ++k) visit(k, Place{b, h, slots[k]});
      return;
    }
    const int32_t* table = cache.table + (b * kv_heads + h) * cache.table_stride;
    int64_t page_begin = 0, page_end = 0, page = 0;
    for (int64_t k = 0; k < count; ++k) {
      if (slots[k] >= page_end) {
        const int64_t index = cache.page_size == 1 ? slots[k] : slots[k] / cache.page_size;
        page = table[index];
        page_begin = index * cache.page_size;
        page_end = page_begin + cache.page_size;
      }
      visit(k, Place{page, slots[k] - page_begin, 0});
    }
  }
  void rows(int64_t b, int64_t h, const int64_t* slots, int64_t count, const char** to) const {
    if (cache.table != nullptr && cache.page_size == 1) {
      const int32_t* table = cache.table + (b * kv_heads + h) * cache.table_stride;
      const int64_t bytes = cache.data.stride[0] * static_cast<int64_t>(size_of(cache.data.dtype));
      for (int64_t k = 0; k < count; ++k) to[k] = static_cast<const char*>(cache.data.data) + table[slots[k]] * bytes;
      return;
    }
    each_place(b, h, slots, count, [&](int64_t k, const Place& at) { to[k] = row(at); });
  }
  /// The one number that `view` holds for each slot.
  void numbers(const View<const float>& view, int64_t b, int64_t h, const int64_t* slots, int64_t count,
               float* to) const {
    const bool run = slots[count - 1] - slots[0] == count - 1;
    if (run && cache.table == nullptr && cache.slot_group == 1 && view.size[2] != 1 && view.stride[2] == 1) {
      std::copy_n(channels(view, {b, h, slots[0]}), count, to);
      return;
    }
    each_place(b, h, slots, count, [&](int64_t k, const Place& at) { to[k] = *channels(view, at); });
  }
};

/// cos and sin of (0 .. kPeriod - 1) * frequency: with those of a multiple of kPeriod they give every angle.
struct RotationTable {
  static constexpr int64_t kPeriod = 64;  // the table stays in the first cache beside the keys
  explicit RotationTable(const ReadRotation& rotation);

  int64_t half = 0;
  std::vector<float> cosine, sine;                 ///< [kPeriod][half]
  std::vector<double> period_cosine, period_sine;  ///< of kPeriod itself, [half]
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
