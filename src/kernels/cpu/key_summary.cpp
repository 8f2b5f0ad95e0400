// Channel-wise extremes and means of pages of keys, lanes over channels.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/key_summary.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/decode_stage-inl.h"
#include "kernels/cpu/key_summary_call.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct SummaryScratch {
  SummaryScratch(Arena& arena, const KeySummaryCall& call)
      : width(round_up(call.p.k.channels(), 16)),
        key(arena.take<float>(width)),
        maximum(arena.take<float>(width)),
        minimum(arena.take<float>(width)),
        sum(arena.take<float>(width)) {}

  int64_t width;
  float *key, *maximum, *minimum, *sum;
};

/// The extremes and the sum with one more key, NaN where a channel has one.
HWY_INLINE void join_key(const SummaryScratch& s) {
  const Lanes d;
  for (int64_t c = 0; c < s.width; c += kLanes) {
    const Vector x = hn::Load(d, s.key + c), high = hn::Load(d, s.maximum + c), low = hn::Load(d, s.minimum + c);
    const auto nan = hn::IsNaN(x);
    hn::Store(hn::IfThenElse(hn::Or(hn::Gt(x, high), nan), x, high), d, s.maximum + c);
    hn::Store(hn::IfThenElse(hn::Or(hn::Lt(x, low), nan), x, low), d, s.minimum + c);
    hn::Store(hn::Add(hn::Load(d, s.sum + c), x), d, s.sum + c);
  }
}

void SummarizePage(const KeySummaryCall& call, const KeySummaryCall::Item& item, int64_t page,
                   const SummaryScratch& s) {
  const KeySummaryParams& p = call.p;
  const int64_t channels = p.k.channels(), length = call.lengths[item.b * p.num_kv_heads + item.h];
  const int64_t first = page * p.page_slots, end = std::min(first + p.page_slots, length);
  const int64_t begin = std::clamp(summarized_slots(p, item.b, item.h), first, end);
  std::fill_n(s.maximum, s.width, -INFINITY);
  std::fill_n(s.minimum, s.width, INFINITY);
  std::fill_n(s.sum, s.width, 0.0f);
  if (begin > first) {
    if (p.extremes) {
      with_float_type(p.extremes, [&](auto* data) {
        const auto* row = p.extremes.as<std::remove_pointer_t<decltype(data)>>().row(item.b, item.h, page);
        read_row(row, channels, s.maximum, true);
        read_row(row + channels, channels, s.minimum, true);
      });
    }
    if (p.means) {
      const float* row = p.means.as<float>().row(item.b, item.h, page);
      for (int64_t c = 0; c < channels; ++c) s.sum[c] = row[c] * static_cast<float>(begin - first);
    }
  }
  std::fill_n(s.key, s.width, 0.0f);
  int64_t slots[kStepSlots];
  for (int64_t slot = begin; slot < end; slot += kStepSlots) {
    const int64_t count = std::min(kStepSlots, end - slot);
    for (int64_t k = 0; k < count; ++k) slots[k] = slot + k;
    call.keys.each_place(item.b, item.h, slots, count, [&](int64_t, const SlotSource::Place& at) {
      stage_slot(call.keys, at, s.key);
      join_key(s);
    });
  }
  if (p.extremes) {
    with_float_type(p.extremes, [&](auto* data) {
      auto* row = p.extremes.as<std::remove_pointer_t<decltype(data)>>().row(item.b, item.h, page);
      write_row(s.maximum, 1, channels, row);
      write_row(s.minimum, 1, channels, row + channels);
    });
  }
  if (p.means) {
    float* row = p.means.as<float>().row(item.b, item.h, page);
    for (int64_t c = 0; c < channels; ++c) row[c] = s.sum[c] / static_cast<float>(end - first);
  }
}

void RunSummaryItem(const KeySummaryCall& call, const KeySummaryCall::Item& item, void* memory) {
  Arena arena(memory);
  const SummaryScratch scratch(arena, call);
  for (int64_t page = item.begin; page < item.end; ++page) SummarizePage(call, item, page, scratch);
}

int64_t SummaryBytes(const KeySummaryCall& call) {
  Arena arena;
  const SummaryScratch scratch(arena, call);
  return arena.used();
}

void SplitQueries(const AnyView& q, const View<float>& split) {
  const int64_t channels = q.size[3];
  with_float_type(q, [&](auto* data) {
    const auto from = q.as<std::remove_pointer_t<decltype(data)>>();
    for (int64_t row = 0; row < q.size[0] * q.size[1] * q.size[2]; ++row) {
      const int64_t b = row / (q.size[1] * q.size[2]), h = row / q.size[2] % q.size[1], n = row % q.size[2];
      float *positive = split.row(b, h, n), *negative = positive + channels;
      read_row(from.row(b, h, n), channels, positive, false);
      for (int64_t c = 0; c < channels; ++c) {
        negative[c] = positive[c] > 0 ? 0 : positive[c];
        positive[c] = positive[c] < 0 ? 0 : positive[c];
      }
    }
  });
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunSummaryItem);
HWY_EXPORT(SummaryBytes);
HWY_EXPORT(SplitQueries);

void run_summary_item(const KeySummaryCall& call, const KeySummaryCall::Item& item, void* scratch) {
  HEED_DISPATCH(RunSummaryItem)(call, item, scratch);
}
int64_t summary_scratch_bytes(const KeySummaryCall& call) { return HEED_DISPATCH(SummaryBytes)(call); }
void split_queries(const AnyView& q, const View<float>& split) { HEED_DISPATCH(SplitQueries)(q, split); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
