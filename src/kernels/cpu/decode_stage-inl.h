// Keys and values that cannot be multiplied as they are stored: converted, dequantised, rotated and padded into float
// rows.
#if defined(HEED_KERNELS_CPU_DECODE_STAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_STAGE_INL_H_
#undef HEED_KERNELS_CPU_DECODE_STAGE_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_STAGE_INL_H_
#endif

#include <bit>
#include <cmath>
#include <cstring>

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

/// `width` elements as floats, padded with zeros to whole vectors.
HWY_INLINE void stage_elements(const char* row, DType dtype, int64_t width, float* to) {
  switch (dtype) {
    case DType::f16:
      read_row(reinterpret_cast<const Half*>(row), width, to, true);
      break;
    case DType::bf16:
      read_row(reinterpret_cast<const BFloat*>(row), width, to, true);
      break;
    case DType::i8:
      read_row(reinterpret_cast<const int8_t*>(row), width, to, true);
      break;
    default:
      read_row(reinterpret_cast<const float*>(row), width, to, true);
      break;
  }
}

HWY_INLINE float float_of(const Half* half) { return hn::GetLane(load_some(half, 1)); }

/// The number in every lane. What is built in memory first would be waited for.
HWY_INLINE Vector broadcast(const Half* half) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  int16_t bits;
  std::memcpy(&bits, half, sizeof bits);
#if HWY_TARGET == HWY_AVX3
  return Vector{_mm512_cvtph_ps(_mm256_set1_epi16(bits))};
#else
  return Vector{_mm256_cvtph_ps(_mm_set1_epi16(bits))};
#endif
#else
  return hn::Set(Lanes(), float_of(half));
#endif
}

/// Which group of `size` an index belongs to; groups are mostly powers of two, and a division costs more than a slot.
HWY_INLINE int64_t group_of(int64_t index, int64_t size) {
  const auto bits = static_cast<uint64_t>(size);
  return std::has_single_bit(bits) ? index >> std::countr_zero(bits) : index / size;
}

/// The codes of kLanes channels, whose bytes are all there.
template <int kBits>
HWY_INLINE Vector codes_of(const uint8_t* bytes) {
  const Words du;
  constexpr int kCount = kLanes * kBits / 8;
  uint64_t packed = 0;
  std::memcpy(&packed, bytes, kCount);
  // Lane i holds the word with its bits; they come down by a shift of its own.
  auto words = hn::Set(du, static_cast<uint32_t>(packed));
  if constexpr (kCount > 4) {
    words = hn::IfThenElse(hn::FirstN(du, 32 / kBits), words, hn::Set(du, static_cast<uint32_t>(packed >> 32)));
  }
  const auto shift = hn::And(hn::Iota(du, 0), hn::Set(du, 32 / kBits - 1));
  const auto codes = hn::And(words >> hn::Mul(shift, hn::Set(du, kBits)), hn::Set(du, (1u << kBits) - 1));
  return hn::ConvertTo(Lanes(), hn::BitCast(Integers(), codes));
}

template <int kBits>
HWY_INLINE void stage_codes(const uint8_t* bytes, const Half* scale, const Half* zero, int64_t group, int64_t width,
                            float* to) {
  int64_t c = 0;
  const bool vectors = kLanes * kBits % 8 == 0 && (group == 1 || group % kLanes == 0);
  for (; vectors && c + kLanes <= width; c += kLanes) {
    const Vector codes = codes_of<kBits>(bytes + c * kBits / 8);
    const int64_t at = group_of(c, group);
    const Vector s = group == 1 ? load_vector(scale + at) : broadcast(scale + at);
    const Vector z = group == 1 ? load_vector(zero + at) : broadcast(zero + at);
    store_vector(hn::MulAdd(codes, s, z), to + c);
  }
  for (; c < width; ++c) {
    const int code = bytes[c * kBits / 8] >> (c * kBits % 8) & ((1 << kBits) - 1);
    to[c] = static_cast<float>(code) * float_of(scale + c / group) + float_of(zero + c / group);
  }
  for (; c < round_up(width, kLanes); ++c) to[c] = 0;
}

HWY_INLINE void stage_packed(const SlotSource& source, const SlotSource::Place& at, float* to) {
  const PackedCodes& packed = source.cache.packed;
  const int64_t slot = at.first * source.cache.page_size + at.second;
  if (packed.exact_of != nullptr) {
    const int64_t group = group_of(slot, packed.exact_group);
    const int32_t kept = packed.exact_of[group];
    if (kept >= 0) {
      const int64_t row = slot + (kept - group) * packed.exact_group;
      const auto bytes = static_cast<int64_t>(size_of(packed.exact.dtype));
      stage_elements(static_cast<const char*>(packed.exact.data) + row * source.width * bytes, packed.exact.dtype,
                     source.width, to);
      return;
    }
  }
  const int64_t groups = group_of(source.width + packed.channel_group - 1, packed.channel_group);
  const int64_t first = group_of(slot, packed.slot_group) * groups;
  const auto* bytes = reinterpret_cast<const uint8_t*>(source.row(at));
  if (packed.bits == 2) {
    stage_codes<2>(bytes, packed.scale + first, packed.zero + first, packed.channel_group, source.width, to);
  } else {
    stage_codes<4>(bytes, packed.scale + first, packed.zero + first, packed.channel_group, source.width, to);
  }
}

/// A slot as `width` floats, padded with zeros to whole vectors.
HWY_INLINE void stage_slot(const SlotSource& source, const SlotSource::Place& at, float* to) {
  if (source.cache.packed.bits != 0) return stage_packed(source, at, to);
  stage_elements(source.row(at), source.cache.data.dtype, source.width, to);
  if (source.scale_use != ScaleUse::general) return;
  const CacheView& cache = source.cache;
  join_channels(cache.scale, source.channels(cache.scale, at), cache.channel_group, source.width, to,
                [](float x, float y) { return x * y; });
  if (!cache.zero) return;
  join_channels(cache.zero, source.channels(cache.zero, at), cache.channel_group, source.width, to,
                [](float x, float y) { return x + y; });
}

template <class T>
HWY_INLINE void stage_rows(const char* const* rows, int64_t count, int64_t width, float* to, int64_t stride) {
  for (int64_t k = 0; k < count; ++k) read_row(reinterpret_cast<const T*>(rows[k]), width, to + k * stride, true);
}

/// The slots of (sequence b, KV head h) that lie at `rows`, as floats `stride` apart.
HWY_INLINE void stage_slots(const SlotSource& source, int64_t b, int64_t h, const int64_t* slots,
                            const char* const* rows, int64_t count, float* to, int64_t stride) {
  if (source.scale_use == ScaleUse::general) {
    source.each_place(b, h, slots, count, [&](int64_t k, const SlotSource::Place& at) HWY_ATTR {
      stage_slot(source, at, to + k * stride);
    });
    return;
  }
  switch (source.cache.data.dtype) {
    case DType::f16:
      return stage_rows<Half>(rows, count, source.width, to, stride);
    case DType::bf16:
      return stage_rows<BFloat>(rows, count, source.width, to, stride);
    case DType::i8:
      return stage_rows<int8_t>(rows, count, source.width, to, stride);
    default:
      return stage_rows<float>(rows, count, source.width, to, stride);
  }
}

/// Rotates staged keys. Keeps the angles of the last multiple of RotationTable::kPeriod: slots mostly ascend.
class Rotator {
 public:
  /// `scratch`: 3 * table.half doubles.
  Rotator(const RotationTable& table, const ReadRotation& rotation, double* scratch)
      : table_(table),
        rotation_(rotation),
        exact_(scratch),
        coarse_(reinterpret_cast<float*>(scratch + 2 * table.half)) {}

  /// Whether keys need no staging before.
  bool reads(const SlotSource& source) const {
    return source.cache.data.dtype == DType::f32 && source.scale_use != ScaleUse::general && !rotation_.interleaved &&
           table_.half % kLanes == 0;
  }

  /// Keys of slots[0 .. count), `stride` apart: those at `rows`, of `width` floats, or, where it is null, those that
  /// are there. `positions`: of every slot; null: a slot's own number. Calls touch(k) for every key, to bring something
  /// else closer.
  template <class Touch>
  HWY_INLINE void rotate(const int64_t* slots, const int64_t* positions, int64_t count, const char* const* rows,
                         int64_t width, float* keys, int64_t stride, const Touch& touch) {
    const int64_t half = table_.half, vectors = rotation_.interleaved ? 0 : half / kLanes * kLanes;
    const float *cosine = table_.cosine.data(), *sine = table_.sine.data();
    int64_t fine[kRun];  // of the run's slots: their row of the table
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
      for (; end < count && end - begin < kRun; ++end) {
        const int64_t position = positions == nullptr ? slots[end] : positions[slots[end]];
        const int64_t at = position & (RotationTable::kPeriod - 1);
        if (position - at != coarse_position_) {
          if (end > begin) break;
          move(position - at);
        }
        fine[end - begin] = at * half;
      }
      const auto key = [&](int64_t k) { return keys + k * stride; };
      const auto source = [&](int64_t k) { return rows == nullptr ? key(k) : reinterpret_cast<const float*>(rows[k]); };
      // The run's share of the angles stays in registers.
      for (int64_t i = 0; i < vectors; i += kLanes) {
        const Vector cc = load_vector(coarse_ + i), ss = load_vector(coarse_ + half + i);
        for (int64_t k = begin; k < end; ++k) {
          if (i == 0) touch(k);
          const int64_t at = fine[k - begin] + i;
          const float* from = source(k) + i;
          float* to = key(k) + i;
          const Vector cf = load_vector(cosine + at), sf = load_vector(sine + at), x = load_vector(from),
                       y = load_vector(from + half);
          const Vector c = hn::NegMulAdd(ss, sf, hn::Mul(cc, cf)), s = hn::MulAdd(ss, cf, hn::Mul(cc, sf));
          store_vector(hn::NegMulAdd(y, s, hn::Mul(x, c)), to);
          store_vector(hn::MulAdd(x, s, hn::Mul(y, c)), to + half);
        }
      }
      for (int64_t k = begin; k < end; ++k) {
        if (vectors == 0) touch(k);
        if (vectors < half) rotate_singly(vectors, cosine + fine[k - begin], sine + fine[k - begin], key(k));
        if (rows != nullptr && width > 2 * half)
          read_row(source(k) + 2 * half, width - 2 * half, key(k) + 2 * half, true);
      }
    }
  }

 private:
  /// Slots that are rotated together.
  static constexpr int64_t kRun = 16;

  /// Pairs from `i` on, in place.
  void rotate_singly(int64_t i, const float* c1, const float* s1, float* to) const {
    const int64_t half = table_.half, step = rotation_.interleaved ? 2 : 1, apart = rotation_.interleaved ? 1 : half;
    const float *c0 = coarse_, *s0 = coarse_ + half;
    for (; i < half; ++i) {
      const float c = c0[i] * c1[i] - s0[i] * s1[i], s = s0[i] * c1[i] + c0[i] * s1[i];
      const float x = to[i * step], y = to[i * step + apart];
      to[i * step] = x * c - y * s;
      to[i * step + apart] = x * s + y * c;
    }
  }

  void move(int64_t position) {
    double *c = exact_, *s = exact_ + table_.half;
    if (position == coarse_position_ + RotationTable::kPeriod) {
      for (int64_t i = 0; i < table_.half; ++i) {
        const double next = c[i] * table_.period_cosine[i] - s[i] * table_.period_sine[i];
        s[i] = s[i] * table_.period_cosine[i] + c[i] * table_.period_sine[i];
        c[i] = next;
      }
    } else {
      for (int64_t i = 0; i < table_.half; ++i) {
        const double angle = static_cast<double>(position) * rotation_.inverse_frequencies[i];
        c[i] = std::cos(angle);
        s[i] = std::sin(angle);
      }
    }
    coarse_position_ = position;
    for (int64_t i = 0; i < 2 * table_.half; ++i) coarse_[i] = static_cast<float>(exact_[i]);
  }

  const RotationTable& table_;
  const ReadRotation& rotation_;
  double* exact_;  ///< cosines, then sines, of coarse_position_
  float* coarse_;  ///< the same
  int64_t coarse_position_ = INT64_MIN / 2;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
