// Rows of any dtype in and out of float: whole vectors, and tails element by element (no read or write outside the
// row).
#if defined(HEED_KERNELS_CPU_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_CONVERT_INL_H_
#undef HEED_KERNELS_CPU_CONVERT_INL_H_
#else
#define HEED_KERNELS_CPU_CONVERT_INL_H_
#endif

#include <cstring>

#include "heed/kernels/view.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

using Shorts = hn::Rebind<uint16_t, Lanes>;

HWY_INLINE Vector load_vector(const float* from) { return hn::LoadU(Lanes(), from); }

HWY_INLINE Vector load_vector(const BFloat* from) {
  const auto bits = hn::PromoteTo(Words(), hn::LoadU(Shorts(), reinterpret_cast<const uint16_t*>(from)));
  return hn::BitCast(Lanes(), hn::ShiftLeft<16>(bits));
}

HWY_INLINE Vector load_vector(const Half* from) {
  const Lanes d;
  const Words du;
#if HWY_TARGET == HWY_AVX3
  return Vector{_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
#elif HWY_TARGET == HWY_AVX2
  return Vector{_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
#else
  const auto bits = hn::PromoteTo(du, hn::LoadU(Shorts(), reinterpret_cast<const uint16_t*>(from)));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFu));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)));
  // The exponent is moved into place and rebased by a product, which also normalises denormals.
  const Vector value = hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 5.192296858534828e33f));
  const auto special = hn::Gt(hn::BitCast(Integers(), magnitude), hn::Set(Integers(), 0x7BFF));
  const auto infinite = hn::Or(hn::BitCast(du, value), hn::Set(du, 0x7F800000u));
  const auto result = hn::IfThenElse(hn::RebindMask(du, special), infinite, hn::BitCast(du, value));
  return hn::BitCast(d, hn::Or(result, sign));
#endif
}

HWY_INLINE Vector load_vector(const int8_t* from) {
  const hn::Rebind<int8_t, Lanes> bytes;
  return hn::ConvertTo(Lanes(), hn::PromoteTo(Integers(), hn::LoadU(bytes, from)));
}

HWY_INLINE void store_vector(Vector value, float* to) { hn::StoreU(value, Lanes(), to); }

HWY_INLINE void store_shorts(hn::Vec<Words> bits, uint16_t* to) {
  hn::StoreU(hn::DemoteTo(Shorts(), hn::BitCast(Integers(), bits)), Shorts(), to);
}

/// Rounds to nearest even.
HWY_INLINE void store_vector(Vector value, BFloat* to) {
  const Words du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7FFFu)), odd));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x0040u));
  const auto nan = hn::RebindMask(du, hn::IsNaN(value));
  store_shorts(hn::IfThenElse(nan, quiet, rounded), reinterpret_cast<uint16_t*>(to));
}

/// Rounds to nearest even.
HWY_INLINE void store_vector(Vector value, Half* to) {
  const Lanes d;
  const Words du;
#if HWY_TARGET == HWY_AVX3
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(value.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif HWY_TARGET == HWY_AVX2
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(value.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const Vector magnitude = hn::Abs(value);
  const auto bits = hn::BitCast(du, magnitude);
  const auto sign = hn::ShiftRight<16>(hn::And(hn::BitCast(du, value), hn::Set(du, 0x80000000u)));
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 1u));
  const auto rebased = hn::Sub(bits, hn::Set(du, 112u << 23));
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(rebased, hn::Set(du, 0xFFFu)), odd));
  // 0.5 has the unit 2^-24, which is that of half's denormals: the sum rounds to it.
  const auto denormal =
      hn::Sub(hn::BitCast(du, hn::Add(magnitude, hn::Set(d, 0.5f))), hn::BitCast(du, hn::Set(d, 0.5f)));
  auto result = hn::IfThenElse(hn::RebindMask(du, hn::Lt(magnitude, hn::Set(d, 6.103515625e-5f))), denormal, normal);
  const auto large = hn::Ge(magnitude, hn::Set(d, 65520.0f));
  result = hn::IfThenElse(hn::RebindMask(du, large), hn::Set(du, 0x7C00u), result);
  result = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), hn::Set(du, 0x7E00u), result);
  store_shorts(hn::Or(result, sign), reinterpret_cast<uint16_t*>(to));
#endif
}

/// The first `count` (below kLanes) elements; the others are 0.
template <class T>
HWY_INLINE Vector load_some(const T* from, int64_t count) {
  HWY_ALIGN T padded[kLanes] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return load_vector(padded);
}

template <class T>
HWY_INLINE void store_some(Vector value, T* to, int64_t count) {
  HWY_ALIGN T padded[kLanes];
  store_vector(value, padded);
  std::memcpy(to, padded, count * sizeof(T));
}

/// to[c] = float(from[c]) for c < count, and 0 up to the next whole vector when `pad`.
template <class T>
HWY_INLINE void read_row(const T* from, int64_t count, float* to, bool pad) {
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) store_vector(load_vector(from + c), to + c);
  if (c >= count) return;
  const Vector rest = load_some(from + c, count - c);
  if (pad) {
    store_vector(rest, to + c);
  } else {
    store_some(rest, to + c, count - c);
  }
}

template <class T>
HWY_INLINE void write_row(const float* from, float factor, int64_t count, T* to) {
  const Vector f = hn::Set(Lanes(), factor);
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) store_vector(hn::Mul(f, load_vector(from + c)), to + c);
  if (c < count) store_some(hn::Mul(f, load_some(from + c, count - c)), to + c, count - c);
}

/// Calls visit(T*) with the view's element type among the three that the engine takes.
template <class Visit>
HWY_INLINE void with_float_type(const AnyView& view, const Visit& visit) {
  switch (view.dtype) {
    case DType::f32:
      visit(static_cast<float*>(view.data));
      break;
    case DType::f16:
      visit(static_cast<Half*>(view.data));
      break;
    default:
      visit(static_cast<BFloat*>(view.data));
      break;
  }
}

/// Rows [begin, begin + count) of head h as float rows of `width` >= size[3], a multiple of kLanes; the padding is 0.
HWY_INLINE void read_rows(const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count, float* to,
                          int64_t width) {
  with_float_type(view, [&](auto* data) {
    const auto typed = view.as<std::remove_pointer_t<decltype(data)>>();
    for (int64_t r = 0; r < count; ++r) {
      read_row(typed.row(b, h, begin + r), view.size[3], to + r * width, true);
    }
  });
}

/// The same of rows[0], rows[1], ...; those below 0 are 0.
HWY_INLINE void gather_rows(const AnyView& view, int64_t b, int64_t h, const int32_t* rows, int64_t count, float* to,
                            int64_t width) {
  with_float_type(view, [&](auto* data) {
    const auto typed = view.as<std::remove_pointer_t<decltype(data)>>();
    for (int64_t r = 0; r < count; ++r) {
      if (rows[r] < 0) {
        std::memset(to + r * width, 0, width * sizeof(float));
      } else {
        read_row(typed.row(b, h, rows[r]), view.size[3], to + r * width, true);
      }
    }
  });
}

struct FloatRows {
  const float* data;
  int64_t stride;
};

/// The same rows to be read one element at a time: in place when they are float already, else in `scratch`.
HWY_INLINE FloatRows float_rows(const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count,
                                float* scratch) {
  if (view.dtype == DType::f32) return {view.as<const float>().row(b, h, begin), view.stride[2]};
  const int64_t width = round_up(view.size[3], kLanes);
  read_rows(view, b, h, begin, count, scratch, width);
  return {scratch, width};
}

/// The same rows for gathers and whole vectors. In place only when they are float; `whole`: and no vector reaches
/// beyond a row.
HWY_INLINE FloatRows vector_rows(const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count,
                                 float* scratch, bool whole = false) {
  constexpr int64_t kLargestStride = int64_t{1} << 24;  // its multiples by a panel's rows fit a gather's 32-bit indices
  const bool fits = view.dtype == DType::f32 && view.stride[2] <= kLargestStride && view.stride[2] >= -kLargestStride;
  if (fits && (!whole || view.size[3] % kLanes == 0)) return {view.as<const float>().row(b, h, begin), view.stride[2]};
  const int64_t width = round_up(view.size[3], kLanes);
  read_rows(view, b, h, begin, count, scratch, width);
  return {scratch, width};
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
