// Exponentials for weights: float32 accuracy (about 2e-7 relative), NaN stays NaN, -inf gives exactly 0.
#if defined(HEED_KERNELS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_EXP_INL_H_
#undef HEED_KERNELS_CPU_EXP_INL_H_
#else
#define HEED_KERNELS_CPU_EXP_INL_H_
#endif

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;
constexpr float kSmallestExponent = -100.0f;

struct ExponentSplit {
  Vector scale;     ///< 2^n, n the integer nearest to x
  Vector fraction;  ///< x - n, in [-1/2, 1/2]
};

// 1.5 * 2^23 leaves an integer in the low bits of the sum; 127 makes it a float's exponent field.
HWY_INLINE ExponentSplit split_exponent(Vector x) {
  const Lanes d;
  const Words du;
  const Vector magic = hn::Set(d, 12582912.0f + 127.0f);
  const Vector shifted = hn::Add(x, magic);
  return {hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted))), hn::Sub(x, hn::Sub(shifted, magic))};
}

#if HWY_TARGET == HWY_AVX3
/// 1 + f * minimax for 2^f on [0, 1], 9.8e-8 relative. 2^0 is 1, so that a maximum that stands still rescales nothing.
HWY_INLINE __m512 exp2_of_fraction(__m512 f) {
  __m512 p = _mm512_set1_ps(0.001867217943072319f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.009016805328428745f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.055800117552280426f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2401643693447113f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931512951850891f));
  return _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
}
#endif

/// 2^x for x <= 127. Below 2^-100 the result is 0: weights that small do not show beside a sum of at least one, and
/// their products would be denormal, which is slow.
HWY_INLINE Vector exp2_of(Vector x) {
  const Lanes d;
#if HWY_TARGET == HWY_AVX3
  // Two instructions split off and put back the exponent; both take infinities and NaN as the formula wants.
  const __m512 p = exp2_of_fraction(_mm512_reduce_ps(x.raw, 0x09));  // of x - floor(x)
  const __mmask16 normal = _mm512_cmp_ps_mask(x.raw, _mm512_set1_ps(kSmallestExponent), _CMP_NLT_UQ);
  return Vector{_mm512_maskz_scalef_ps(normal, p, x.raw)};
#else
  const ExponentSplit split = split_exponent(x);
  const Vector r = split.fraction;
  // Minimax for 2^r on [-1/2, 1/2], 7.5e-8 relative, with 2^0 = 1.
  Vector p = hn::Set(d, 0.0013276472454890609f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.009675540961325169f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.05550713092088699f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.24022120237350464f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.6931469440460205f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kSmallestExponent)), hn::Mul(p, split.scale));
#endif
}

/// While it lives, denormal results and operands of this thread count as 0. Only where exp2_flushed needs it.
class FlushDenormals {
 public:
#if HWY_TARGET == HWY_AVX3
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
#else
  FlushDenormals() {}
#endif
};

/// 2^x for any x, for callers that flush denormals, which saves an instruction: 2^127 or more where x is, and NaN for
/// NaN.
HWY_INLINE Vector exp2_flushed(Vector x) {
#if HWY_TARGET == HWY_AVX3
  return Vector{_mm512_scalef_ps(exp2_of_fraction(_mm512_reduce_ps(x.raw, 0x09)), x.raw)};
#else
  // The bound comes first: x86 then returns a NaN.
  return exp2_of(hn::Min(hn::Set(Lanes(), 127.0f), x));
#endif
}

/// 2^x - 1 for |x| <= 127 without cancellation near 0.
HWY_INLINE Vector exp2_minus_1(Vector x) {
  const Lanes d;
  const ExponentSplit split = split_exponent(x);
  const Vector r = split.fraction;
  // Minimax for (2^r - 1) / r on [-1/2, 1/2], 1.1e-8 relative.
  Vector p = hn::Set(d, 0.00015403512225020677f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.0013390735257416964f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.009618237614631653f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.05550357326865196f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.24022649228572845f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.6931471824645996f));
  return hn::MulAdd(hn::Mul(p, r), split.scale, hn::Sub(split.scale, hn::Set(d, 1.0f)));
}

/// log2(x) for positive normal x; NaN stays.
HWY_INLINE Vector log2_of(Vector x) {
  const Lanes d;
  const Integers di;
  // x = m * 2^e with m in [1/sqrt(2), sqrt(2)); log(m) = 2 artanh((m - 1) / (m + 1)).
  const auto bits = hn::BitCast(di, x);
  const auto e = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3F3504F3)));
  const Vector m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(e)));
  const Vector one = hn::Set(d, 1.0f);
  const Vector t = hn::Div(hn::Sub(m, one), hn::Add(m, one)), t2 = hn::Mul(t, t);
  Vector p = hn::Set(d, 2 * kLog2E / 9);
  p = hn::MulAdd(p, t2, hn::Set(d, 2 * kLog2E / 7));
  p = hn::MulAdd(p, t2, hn::Set(d, 2 * kLog2E / 5));
  p = hn::MulAdd(p, t2, hn::Set(d, 2 * kLog2E / 3));
  p = hn::MulAdd(p, t2, hn::Set(d, 2 * kLog2E));
  return hn::IfThenElse(hn::Ne(x, x), x, hn::MulAdd(p, t, hn::ConvertTo(d, e)));
}

/// tanh(x), accurate relative to its value.
HWY_INLINE Vector tanh_of(Vector x) {
  const Lanes d;
  // Beyond 10 it is 1 in float. Min and Max may drop a NaN, so it is put back.
  const Vector bounded = hn::Min(hn::Max(x, hn::Set(d, -10.0f)), hn::Set(d, 10.0f));
  const Vector e = exp2_minus_1(hn::Mul(hn::Set(d, 2 * kLog2E), bounded));
  const Vector result = hn::Div(e, hn::Add(e, hn::Set(d, 2.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

/// 1 / (1 + exp(-x)), at least 2^-100 or 0.
HWY_INLINE Vector sigmoid_of(Vector x) {
  const Lanes d;
  const Vector one = hn::Set(d, 1.0f);
#if HWY_TARGET == HWY_AVX3
  // One Newton step on the 14-bit reciprocal; the denominator stays finite, so that it does too. The bound comes first
  // in the minimum: x86 then returns a NaN.
  const __m512 exponent = _mm512_min_ps(_mm512_set1_ps(100.0f), _mm512_mul_ps(_mm512_set1_ps(-kLog2E), x.raw));
  const __m512 denominator = _mm512_add_ps(one.raw, exp2_of(Vector{exponent}).raw);
  const __m512 guess = _mm512_rcp14_ps(denominator);
  const __m512 correction = _mm512_fnmadd_ps(denominator, guess, one.raw);
  const __mmask16 above = _mm512_cmp_ps_mask(exponent, _mm512_set1_ps(100.0f), _CMP_NEQ_UQ);
  return Vector{_mm512_maskz_fmadd_ps(above, guess, correction, guess)};
#else
  const Vector e = exp2_of(hn::Mul(hn::Set(d, -kLog2E), hn::Abs(x)));
  const Vector numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one);
  return hn::Div(numerator, hn::Add(one, e));
#endif
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
