// Keys and values that cannot be multiplied as they are stored: converted, dequantised, rotated and padded into float
// rows.
#if defined(HEED_KERNELS_CPU_DECODE_STAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_STAGE_INL_H_
#undef HEED_KERNELS_CPU_DECODE_STAGE_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_STAGE_INL_H_
#endif

#include <cmath>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/decode_call.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// to[c] is scaled by, or raised by, the channel's entry of a scale or zero-point row.
template <class Join>
HWY_INLINE void join_channels(const View<const float>& view, const float* row, int64_t group, int64_t width, float* to,
                              const Join& join) {
  if (view.size[3] == 1) {
    for (int64_t c = 0; c < width; ++c) to[c] = join(to[c], row[0]);
  } else if (group == 1 && view.stride[3] == 1) {
    for (int64_t c = 0; c < width; ++c) to[c] = join(to[c], row[c]);
  } else {
    for (int64_t c = 0; c < width; ++c) to[c] = join(to[c], row[c / group * view.stride[3]]);
  }
}

/// A slot as `width` floats, padded with zeros to whole vectors.
HWY_INLINE void stage_slot(const SlotSource& source, const SlotSource::Place& at, float* to) {
  const char* row = source.row(at);
  switch (source.cache.data.dtype) {
    case DType::f16:
      read_row(reinterpret_cast<const Half*>(row), source.width, to, true);
      break;
    case DType::bf16:
      read_row(reinterpret_cast<const BFloat*>(row), source.width, to, true);
      break;
    case DType::i8:
      read_row(reinterpret_cast<const int8_t*>(row), source.width, to, true);
      break;
    default:
      read_row(reinterpret_cast<const float*>(row), source.width, to, true);
      break;
  }
  if (source.scale_use != ScaleUse::general) return;
  const CacheView& cache = source.cache;
  join_channels(cache.scale, source.channels(cache.scale, at), cache.channel_group, source.width, to,
                [](float x, float y) { return x * y; });
  if (!cache.zero) return;
  join_channels(cache.zero, source.channels(cache.zero, at), cache.channel_group, source.width, to,
                [](float x, float y) { return x + y; });
}

/// Rotates staged keys. Keeps the angles of the last multiple of RotationTable::kPeriod: slots mostly ascend.
class Rotator {
 public:
  /// `scratch`: 4 * table.half floats.
  Rotator(const RotationTable& table, const ReadRotation& rotation, float* scratch)
      : table_(table), rotation_(rotation), coarse_(scratch), angle_(scratch + 2 * table.half) {}

  void rotate(int64_t position, float* key) {
    constexpr int64_t kPeriod = RotationTable::kPeriod;
    const int64_t half = table_.half, fine = (position % kPeriod + kPeriod) % kPeriod;
    if (position - fine != coarse_position_) move(position - fine);
    const float *HWY_RESTRICT c0 = coarse_, *HWY_RESTRICT s0 = coarse_ + half;
    const float *HWY_RESTRICT c1 = table_.cosine.data() + fine * half,
                              *HWY_RESTRICT s1 = table_.sine.data() + fine * half;
    float *HWY_RESTRICT c = angle_, *HWY_RESTRICT s = angle_ + half;
    for (int64_t i = 0; i < half; ++i) {
      c[i] = c0[i] * c1[i] - s0[i] * s1[i];
      s[i] = s0[i] * c1[i] + c0[i] * s1[i];
    }
    if (rotation_.interleaved) {
      for (int64_t i = 0; i < half; ++i) turn(c[i], s[i], key[2 * i], key[2 * i + 1]);
    } else {
      float *HWY_RESTRICT first = key, *HWY_RESTRICT second = key + half;
      for (int64_t i = 0; i < half; ++i) turn(c[i], s[i], first[i], second[i]);
    }
  }

 private:
  static HWY_INLINE void turn(float c, float s, float& x, float& y) {
    const float turned = x * c - y * s;
    y = x * s + y * c;
    x = turned;
  }
  void move(int64_t position) {
    coarse_position_ = position;
    for (int64_t i = 0; i < table_.half; ++i) {
      const double angle = static_cast<double>(position) * rotation_.inverse_frequencies[i];
      coarse_[i] = static_cast<float>(std::cos(angle));
      coarse_[table_.half + i] = static_cast<float>(std::sin(angle));
    }
  }

  const RotationTable& table_;
  const ReadRotation& rotation_;
  float *coarse_, *angle_;
  int64_t coarse_position_ = INT64_MIN;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
