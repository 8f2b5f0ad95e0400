// A slot of a cache in double: through the table, dequantised, rotated.
#pragma once

#include <cmath>
#include <vector>

#include "heed/kernels/decode.h"
#include "kernels/reference/element.h"

namespace heed::kernels::reference {

/// Element with broadcast sizes of 1.
inline double value_of(const View<const float>& view, int64_t a, int64_t b, int64_t c, int64_t d) {
  const int64_t index[4] = {a, b, c, d};
  int64_t offset = 0;
  for (int axis = 0; axis < 4; ++axis) offset += view.size[axis] == 1 ? 0 : index[axis] * view.stride[axis];
  return view.data[offset];
}

/// Channel d of packed slot `slot`.
inline double packed_value(const CacheView& cache, int64_t slot, int64_t d) {
  const PackedCodes& packed = cache.packed;
  if (packed.exact_of != nullptr) {
    const int32_t kept = packed.exact_of[slot / packed.exact_group];
    if (kept >= 0) return load_element(packed.exact, kept, slot % packed.exact_group, 0, d);
  }
  const auto* byte = static_cast<const uint8_t*>(cache.data.data) + slot / cache.page_size * cache.data.stride[0] +
                     slot % cache.page_size * cache.data.stride[1] + d * packed.bits / 8;
  const int code = *byte >> (d * packed.bits % 8) & ((1 << packed.bits) - 1);
  const int64_t groups = (cache.channels() + packed.channel_group - 1) / packed.channel_group;
  const int64_t at = slot / packed.slot_group * groups + d / packed.channel_group;
  return code * load_element(packed.scale, DType::f16, at) + load_element(packed.zero, DType::f16, at);
}

/// Channel d of slot s, dequantised.
inline double cached(const DecodeParams& p, const CacheView& cache, int64_t b, int64_t h, int64_t s, int64_t d) {
  if (cache.table == nullptr) {
    const double stored = load_element(cache.data, b, h, s, d);
    if (!cache.scale) return stored;
    const int64_t slot = s / cache.slot_group, channel = d / cache.channel_group;
    return stored * value_of(cache.scale, b, h, slot, channel) +
           (cache.zero ? value_of(cache.zero, b, h, slot, channel) : 0.0);
  }
  const int64_t page = cache.table[(b * p.num_kv_heads + h) * cache.table_stride + s / cache.page_size];
  const int64_t within = s % cache.page_size;
  if (cache.packed.bits != 0) return packed_value(cache, page * cache.page_size + within, d);
  const double stored = load_element(cache.data, page, within, 0, d);
  if (!cache.scale) return stored;
  const int64_t slot = within / cache.slot_group, channel = d / cache.channel_group;
  return stored * value_of(cache.scale, page, slot, 0, channel) +
         (cache.zero ? value_of(cache.zero, page, slot, 0, channel) : 0.0);
}

/// The key in slot s as the products see it: dequantised and rotated.
inline std::vector<double> key_row(const DecodeParams& p, int64_t b, int64_t h, int64_t s) {
  std::vector<double> key(p.q.size[3]);
  for (size_t d = 0; d < key.size(); ++d) key[d] = cached(p, p.k, b, h, s, static_cast<int64_t>(d));
  const ReadRotation& rotation = p.rotation;
  if (rotation.inverse_frequencies == nullptr) return key;
  const int64_t position =
      rotation.positions == nullptr ? s : rotation.positions[(b * p.num_kv_heads + h) * rotation.positions_stride + s];
  const int64_t half = rotation.rotated / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * rotation.inverse_frequencies[i];
    const int64_t first = rotation.interleaved ? 2 * i : i, second = rotation.interleaved ? 2 * i + 1 : i + half;
    const double x = key[first], y = key[second];
    key[first] = x * std::cos(angle) - y * std::sin(angle);
    key[second] = x * std::sin(angle) + y * std::cos(angle);
  }
  return key;
}

}  // namespace heed::kernels::reference
