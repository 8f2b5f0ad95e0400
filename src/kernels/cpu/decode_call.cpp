#include "kernels/cpu/decode_call.h"

#include <cmath>

namespace heed::kernels {
namespace {

CacheView float_cache(const View<const float>& view) {
  CacheView cache;
  cache.data = {const_cast<float*>(view.data), DType::f32, view.size, view.stride};
  for (int axis = 0; axis < 2; ++axis) {
    if (view.size[axis] == 1) cache.data.stride[axis] = 0;
  }
  return cache;
}

}  // namespace

SlotSource::SlotSource(const CacheView& view, int64_t heads, bool elementwise_scale, bool elementwise_zero)
    : cache(view), kv_heads(heads), width(view.channels()) {
  if (cache.packed.bits != 0) scale_use = ScaleUse::general;
  if (!cache.scale) return;
  const bool pages = cache.table != nullptr;
  const auto same_for_all_slots = [&](const View<const float>& v) {
    return !v || (v.size[pages ? 1 : 2] == 1 && (!pages || v.size[0] == 1));
  };
  const auto same_for_all_channels = [&](const View<const float>& v) { return !v || v.size[3] == 1; };
  if (!elementwise_scale && same_for_all_slots(cache.scale) && same_for_all_slots(cache.zero)) {
    scale_use = ScaleUse::per_channel;
  } else if (same_for_all_channels(cache.scale) && same_for_all_channels(cache.zero) &&
             !(elementwise_zero && cache.zero)) {
    scale_use = ScaleUse::per_slot;
  } else {
    scale_use = ScaleUse::general;
  }
}

RotationTable::RotationTable(const ReadRotation& rotation) {
  if (rotation.inverse_frequencies == nullptr) return;
  half = rotation.rotated / 2;
  cosine.resize(kPeriod * half);
  sine.resize(kPeriod * half);
  std::vector<double> c(half, 1), s(half, 0), step_cosine(half), step_sine(half);
  for (int64_t i = 0; i < half; ++i) {
    step_cosine[i] = std::cos(static_cast<double>(rotation.inverse_frequencies[i]));
    step_sine[i] = std::sin(static_cast<double>(rotation.inverse_frequencies[i]));
  }
  for (int64_t position = 0; position < kPeriod; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      cosine[position * half + i] = static_cast<float>(c[i]);
      sine[position * half + i] = static_cast<float>(s[i]);
      const double next = c[i] * step_cosine[i] - s[i] * step_sine[i];
      s[i] = s[i] * step_cosine[i] + c[i] * step_sine[i];
      c[i] = next;
    }
  }
  period_cosine = std::move(c);
  period_sine = std::move(s);
}

DecodeCall::DecodeCall(const DecodeParams& params)
    : p(params),
      batch(p.q.size[0]),
      heads(p.q.size[1]),
      kv_heads(p.num_kv_heads),
      group(heads / kv_heads),
      rows(p.q.size[2]),
      d(p.q.size[3]),
      dv(p.v.channels()),
      query_rows(group * rows),
      scale(p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(d))),
      lengths(row_lengths(p)),
      // Rotation mixes channels, so what differs between them comes first.
      keys(p.k, kv_heads, p.rotation.inverse_frequencies != nullptr, p.rotation.inverse_frequencies != nullptr),
      values(p.v, kv_heads, false, true),
      synthetic_keys(float_cache(p.synthetic_k), kv_heads, false, false),
      synthetic_values(float_cache(p.synthetic_v), kv_heads, false, false),
      rotation(p.rotation) {
  if (!p.column_sum) return;
  int64_t count = 0;
  for (int64_t length : lengths) {
    logit_begin.push_back(count);
    count += query_rows * length;
  }
  logit_block = allocate(count * static_cast<int64_t>(sizeof(float)));
  logits = static_cast<float*>(logit_block.get());
}

}  // namespace heed::kernels
