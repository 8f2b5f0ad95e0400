// The pieces of the selective scan, lanes over channels: blocks of tokens of one vector of channels are read into
// scratch, then a few states at a time run over them in registers.
#if defined(HEED_KERNELS_CPU_SELECTIVE_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#undef HEED_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#else
#define HEED_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#endif

#include "kernels/cpu/rows_ahead.h"
#include "kernels/cpu/scan_math-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/selective_scan_task.h"
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// exp(step A), of a real or a complex A.
struct Decay {
  Vector re, im;
};

/// Tokens between looks ahead.
constexpr int64_t kTokensAStep = 4;

/// States that share registers: most of a real scan, most of a complex one.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kRealStates = 8, kComplexStates = 4;
#else
constexpr int kRealStates = 4, kComplexStates = 2;
#endif

/// 2^x of finite x, for callers that flush denormals. A state may be multiplied by thousands of factors that are almost
/// 1, so the error must vanish with x: what is left of x is taken on both sides of 0.
HWY_INLINE Vector exp2_of_decay(Vector x) {
#if HWY_TARGET == HWY_AVX3
  const __m512 n = _mm512_roundscale_ps(x.raw, 0x08), r = _mm512_sub_ps(x.raw, n);
  // Minimax on [-1/2, 1/2], as in exp2_of.
  __m512 p = _mm512_set1_ps(0.0013276472454890609f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.009675540961325169f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.05550713092088699f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24022120237350464f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6931469440460205f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return Vector{_mm512_scalef_ps(p, n)};
#else
  return exp2_flushed(x);
#endif
}

template <bool kComplex>
HWY_INLINE Decay decay_of(Vector step, Vector step_log2e, Vector a_re, Vector a_im) {
  const Vector size = exp2_of_decay(hn::Mul(step_log2e, a_re));
  if constexpr (!kComplex) {
    return {size, size};
  } else {
    const SineCosine turn = sine_cosine_of(hn::Mul(step, a_im));
    return {hn::Mul(size, turn.cosine), hn::Mul(size, turn.sine)};
  }
}

/// Calls run(first, std::integral_constant<int, k>) for groups of k states, the largest first.
template <int kMost, class Run>
HWY_INLINE void for_each_group(int64_t states, const Run& run) {
  int64_t n = 0;
  for (; n + kMost <= states; n += kMost) run(n, std::integral_constant<int, kMost>());
  if constexpr (kMost > 4) {
    if (n + 4 <= states) run(n, std::integral_constant<int, 4>()), n += 4;
  }
  if constexpr (kMost > 2) {
    if (n + 2 <= states) run(n, std::integral_constant<int, 2>()), n += 2;
  }
  if (n < states) run(n, std::integral_constant<int, 1>());
}

/// One vector of channels over a block of tokens: rows of one vector each.
struct ColumnBlock {
  explicit ColumnBlock(Arena& arena)
      : x(take(arena)),
        step(take(arena)),
        step_log2e(take(arena)),
        write(take(arena)),
        y(take(arena)),
        z(take(arena)) {}
  static float* take(Arena& arena) { return arena.take<float>(kScanBlock * kLanes); }

  float *x, *step, *step_log2e;
  float* write;  ///< Delta x
  float *y, *z;
};

/// What a thread holds of a slice.
struct SliceScratch {
  SliceScratch(Arena& arena, const SelectiveScanTask& task)
      : a(arena.take<float>(task.state_floats())),
        h(arena.take<float>(task.state_floats())),
        b(arena.take<float>(kScanBlock * round_up(task.width, kLanes))),
        c(arena.take<float>(kScanBlock * round_up(task.width, kLanes))),
        column(arena) {}

  float *a, *h;  ///< [width][slice_width]
  float *b, *c;  ///< [kScanBlock] rows of the states' width, in whole vectors
  ColumnBlock column;
};

HWY_INLINE void pack_states(const SelectiveScanTask& task, const ChannelSlice& slice, const AnyView& view, int64_t b,
                            float* to) {
  if (!view) {
    std::fill_n(to, task.state_floats(), 0.0f);
    return;
  }
  pack_transposed(view.as<const float>().row(b, 0, slice.begin), view.stride[2], slice.count(), task.width, 1, to,
                  task.slice_width);
}

/// Rows of B or C of a block of tokens as float rows.
HWY_INLINE FloatRows coefficient_rows(const AnyView& view, int64_t b, int64_t group, int64_t begin, int64_t count,
                                      float* scratch) {
  return float_rows(view, b, group, begin, count, scratch);
}

/// Delta of a column, and what follows from it. Raw values are left in `column.step` first, so that slopes can be
/// taken.
HWY_INLINE void read_steps(const SelectiveScanParams& p, int64_t batch, int64_t begin, int64_t count, int64_t channel,
                           int64_t lanes, float* to, int64_t ahead) {
  const Lanes d;
  read_column(p.delta, batch, 0, begin, count, channel, lanes, to, ahead);
  if (!p.delta_bias) return;
  const Vector bias = load_lanes(p.delta_bias.as<const float>().data + channel, lanes);
  for (int64_t t = 0; t < count * kLanes; t += kLanes) hn::StoreU(hn::Add(bias, hn::LoadU(d, to + t)), d, to + t);
}

HWY_INLINE void prepare_column(const SelectiveScanParams& p, int64_t batch, int64_t begin, int64_t count,
                               int64_t channel, int64_t lanes, const ColumnBlock& column, int64_t ahead = -1) {
  const Lanes d;
  read_column(p.x, batch, 0, begin, count, channel, lanes, column.x, ahead);
  read_steps(p, batch, begin, count, channel, lanes, column.step, ahead);
  const Vector log2e = hn::Set(d, kLog2E);
  for (int64_t t = 0; t < count * kLanes; t += kLanes) {
    Vector step = hn::LoadU(d, column.step + t);
    if (p.delta_softplus) step = softplus_of(step);
    hn::StoreU(step, d, column.step + t);
    hn::StoreU(hn::Mul(log2e, step), d, column.step_log2e + t);
    hn::StoreU(hn::Mul(step, hn::LoadU(d, column.x + t)), d, column.write + t);
  }
}

/// y starts as skip x.
HWY_INLINE void start_outputs(const SelectiveScanParams& p, int64_t count, int64_t channel, int64_t lanes,
                              const ColumnBlock& column) {
  const Lanes d;
  const Vector skip = p.skip ? load_lanes(p.skip.as<const float>().data + channel, lanes) : hn::Zero(d);
  for (int64_t t = 0; t < count * kLanes; t += kLanes)
    hn::StoreU(p.skip ? hn::Mul(skip, hn::LoadU(d, column.x + t)) : hn::Zero(d), d, column.y + t);
}

/// The states [first, first + kStates) of one vector of channels over a block. `a` and `h` point at the vector's lanes
/// in row 0; `h` becomes the state after the block. With kOutputs, what they give is added to y. `visit(t, n, before,
/// decay)` sees every state before its token and its decay.
template <int kStates, bool kComplex, bool kOutputs, class Visit>
HWY_INLINE void scan_states(int64_t first, int64_t count, const float* HWY_RESTRICT a, float* HWY_RESTRICT h,
                            int64_t stride, FloatRows b, FloatRows c, const ColumnBlock& column, const Visit& visit,
                            RowsAhead* ahead = nullptr) {
  constexpr int kParts = kComplex ? 2 : 1;
  const Lanes d;
  const int64_t row = first * kParts;
  Vector decays[kStates * kParts], state[kStates * kParts];
  HWY_UNROLL(8) for (int n = 0; n < kStates * kParts; ++n) {
    decays[n] = hn::LoadU(d, a + (row + n) * stride);
    state[n] = hn::LoadU(d, h + (row + n) * stride);
  }
  for (int64_t t = 0; t < count; ++t) {
    if (ahead != nullptr && t % kTokensAStep == 0) ahead->step();
    const Vector step = hn::LoadU(d, column.step + t * kLanes), log2e = hn::LoadU(d, column.step_log2e + t * kLanes);
    const Vector write = hn::LoadU(d, column.write + t * kLanes);
    const float *HWY_RESTRICT bt = b.data + t * b.stride + row, *HWY_RESTRICT ct = c.data + t * c.stride + row;
    Vector y = kOutputs ? hn::LoadU(d, column.y + t * kLanes) : hn::Zero(d);
    HWY_UNROLL(8) for (int n = 0; n < kStates; ++n) {
      if constexpr (!kComplex) {
        const Decay decay = decay_of<false>(step, log2e, decays[n], decays[n]);
        visit(t, n, state + n, decay);
        state[n] = hn::MulAdd(decay.re, state[n], hn::Mul(write, hn::Set(d, bt[n])));
        if (kOutputs) y = hn::MulAdd(state[n], hn::Set(d, ct[n]), y);
      } else {
        Vector &re = state[2 * n], &im = state[2 * n + 1];
        const Decay decay = decay_of<true>(step, log2e, decays[2 * n], decays[2 * n + 1]);
        visit(t, n, state + 2 * n, decay);
        const Vector was = re;
        re = hn::MulAdd(decay.re, re, hn::NegMulAdd(decay.im, im, hn::Mul(write, hn::Set(d, bt[2 * n]))));
        im = hn::MulAdd(decay.re, im, hn::MulAdd(decay.im, was, hn::Mul(write, hn::Set(d, bt[2 * n + 1]))));
        if (kOutputs) {
          y = hn::MulAdd(re, hn::Set(d, 2 * ct[2 * n]), y);
          y = hn::NegMulAdd(im, hn::Set(d, 2 * ct[2 * n + 1]), y);
        }
      }
    }
    if (kOutputs) hn::StoreU(y, d, column.y + t * kLanes);
  }
  HWY_UNROLL(8) for (int n = 0; n < kStates * kParts; ++n) hn::StoreU(state[n], d, h + (row + n) * stride);
}

/// All states of one vector of channels over a block.
template <bool kOutputs>
HWY_INLINE void scan_column(const SelectiveScanTask& task, int64_t count, const float* a, float* h, FloatRows b,
                            FloatRows c, const ColumnBlock& column, RowsAhead* ahead = nullptr) {
  const auto nobody = [](int64_t, int, const Vector*, const Decay&) {};
  if (task.p.complex) {
    for_each_group<kComplexStates>(task.width / 2, [&](int64_t n, auto states) {
      scan_states<states(), true, kOutputs>(n, count, a, h, task.slice_width, b, c, column, nobody, ahead);
    });
  } else {
    for_each_group<kRealStates>(task.width, [&](int64_t n, auto states) {
      scan_states<states(), false, kOutputs>(n, count, a, h, task.slice_width, b, c, column, nobody, ahead);
    });
  }
}

/// Calls visit(begin, count) for the blocks of a unit.
template <class Visit>
HWY_INLINE void for_each_block(const ScanUnit& unit, const Visit& visit) {
  for (int64_t t = unit.begin; t < unit.end; t += kScanBlock) visit(t, std::min(kScanBlock, unit.end - t));
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
