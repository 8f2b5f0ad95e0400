// Functions of gates and steps, on vectors: softplus and its slope, sine and cosine; columns of rows of any type.
#if defined(HEED_KERNELS_CPU_SCAN_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_SCAN_MATH_INL_H_
#undef HEED_KERNELS_CPU_SCAN_MATH_INL_H_
#else
#define HEED_KERNELS_CPU_SCAN_MATH_INL_H_
#endif

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// log(1 + exp(x)), accurate relative to its value down to exp(-69), below which it is 0.
HWY_INLINE Vector softplus_of(Vector x) {
  const Lanes d;
  const Vector e = exp2_of(hn::Mul(hn::Set(d, -kLog2E), hn::Abs(x)));
  // log(1 + e) = 2 artanh(t) with t = e / (2 + e) of at most 1/3: the series loses nothing where e is small.
  const Vector t = hn::Div(e, hn::Add(hn::Set(d, 2.0f), e)), t2 = hn::Mul(t, t);
  Vector p = hn::Set(d, 2.0f / 15);
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f / 13));
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f / 11));
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f / 9));
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f / 7));
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f / 5));
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f / 3));
  p = hn::MulAdd(p, t2, hn::Set(d, 2.0f));
  const Vector result = hn::MulAdd(p, t, hn::Max(x, hn::Zero(d)));
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

struct SineCosine {
  Vector sine, cosine;
};

/// Within 1e-7 of the functions of x for |x| up to about 1e4; beyond, x itself is known no better.
HWY_INLINE SineCosine sine_cosine_of(Vector x) {
  const Lanes d;
  const Integers di;
  const Vector turns = hn::Round(hn::Mul(x, hn::Set(d, 0.63661977236758134308f)));
  // pi / 2 in parts whose products with a number of quarter turns are exact.
  Vector r = hn::NegMulAdd(turns, hn::Set(d, 1.5703125f), x);
  r = hn::NegMulAdd(turns, hn::Set(d, 4.837512969970703125e-4f), r);
  r = hn::NegMulAdd(turns, hn::Set(d, 7.54978995489188216e-8f), r);
  const Vector r2 = hn::Mul(r, r);
  Vector s = hn::Set(d, -1.9515295891e-4f);
  s = hn::MulAdd(s, r2, hn::Set(d, 8.3321608736e-3f));
  s = hn::MulAdd(s, r2, hn::Set(d, -1.6666654611e-1f));
  s = hn::MulAdd(hn::Mul(s, r2), r, r);
  Vector c = hn::Set(d, 2.443315711809948e-5f);
  c = hn::MulAdd(c, r2, hn::Set(d, -1.388731625493765e-3f));
  c = hn::MulAdd(c, r2, hn::Set(d, 4.166664568298827e-2f));
  c = hn::MulAdd(hn::Mul(c, r2), r2, hn::NegMulAdd(hn::Set(d, 0.5f), r2, hn::Set(d, 1.0f)));
  // Quarter turns exchange the two and change signs.
  const auto quarter = hn::ConvertTo(di, turns);
  const auto odd = hn::RebindMask(d, hn::Ne(hn::And(quarter, hn::Set(di, 1)), hn::Zero(di)));
  const auto sine_sign = hn::ShiftLeft<30>(hn::And(quarter, hn::Set(di, 2)));
  const auto cosine_sign = hn::ShiftLeft<30>(hn::And(hn::Add(quarter, hn::Set(di, 1)), hn::Set(di, 2)));
  return {hn::Xor(hn::IfThenElse(odd, c, s), hn::BitCast(d, sine_sign)),
          hn::Xor(hn::IfThenElse(odd, s, c), hn::BitCast(d, cosine_sign))};
}

/// `lanes` channels from `column` on of tokens [begin, begin + count), as rows of one vector; the other lanes are 0.
/// Rows of many channels lie pages apart, which no hardware foresees: `ahead` is the token from which as many more will
/// be wanted next, below 0: none.
HWY_INLINE void read_column(const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count, int64_t column,
                            int64_t lanes, float* to, int64_t ahead = -1) {
  with_float_type(view, [&](auto* data) {
    const auto typed = view.as<std::remove_pointer_t<decltype(data)>>();
    if (ahead >= 0) {
      for (int64_t r = ahead; r < std::min(ahead + count, view.size[2]); ++r)
        __builtin_prefetch(typed.row(b, h, r) + column);
    }
    if (lanes >= kLanes) {
      for (int64_t r = 0; r < count; ++r)
        hn::StoreU(load_vector(typed.row(b, h, begin + r) + column), Lanes(), to + r * kLanes);
    } else {
      for (int64_t r = 0; r < count; ++r)
        hn::StoreU(load_some(typed.row(b, h, begin + r) + column, lanes), Lanes(), to + r * kLanes);
    }
  });
}

/// The reverse. The lines of tokens from `ahead` on are fetched for writing.
HWY_INLINE void write_column(const float* from, const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count,
                             int64_t column, int64_t lanes, int64_t ahead = -1) {
  with_float_type(view, [&](auto* data) {
    const auto typed = view.as<std::remove_pointer_t<decltype(data)>>();
    if (ahead >= 0) {
      for (int64_t r = ahead; r < std::min(ahead + count, view.size[2]); ++r)
        __builtin_prefetch(typed.row(b, h, r) + column, 1);
    }
    if (lanes >= kLanes) {
      for (int64_t r = 0; r < count; ++r)
        store_vector(hn::LoadU(Lanes(), from + r * kLanes), typed.row(b, h, begin + r) + column);
    } else {
      for (int64_t r = 0; r < count; ++r)
        store_some(hn::LoadU(Lanes(), from + r * kLanes), typed.row(b, h, begin + r) + column, lanes);
    }
  });
}

/// The first `count` (any number) floats of a row, as one vector.
HWY_INLINE Vector load_lanes(const float* from, int64_t count) {
  return count >= kLanes ? hn::LoadU(Lanes(), from) : load_some(from, count);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
