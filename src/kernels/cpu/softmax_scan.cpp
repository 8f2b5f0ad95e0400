// The softmax scan, forward: weights of a block of tokens relative to running maxima first, then lanes over values.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/softmax_scan.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/softmax_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct ForwardScratch {
  ForwardScratch(Arena& arena, const SoftmaxScanTask& task)
      : keep(arena.take<float>(kTokenBlock)),
        add(arena.take<float>(kTokenBlock)),
        inverse(arena.take<float>(kTokenBlock)),
        largest(arena.take<float>(kTokenBlock)),
        sums(arena.take<float>(kTokenBlock)),
        seen(arena.take<float>(task.state_floats() + kLanes)) {}

  float* keep;     ///< factor of what was seen before a token
  float* add;      ///< weight of the token
  float* inverse;  ///< 1 / u after it, 0 while nothing has weight
  float *largest, *sums;
  float* seen;  ///< m, u, w; room for whole vectors behind
};

/// Weights of a block, and m and u after it.
void prepare_block(const AnyView& scores, int64_t b, int64_t h, int64_t begin, int64_t count, const ForwardScratch& s) {
  const Lanes d;
  read_scores(scores, b, h, begin, count, s.add);
  float m = s.seen[0], u = s.seen[1];
  for (int64_t t = 0; t < count; ++t) {
    const float score = s.add[t], before = m;
    // Beside a NaN, either way, the larger is NaN.
    m = score > m || score != score ? score : m;
    const bool nothing = m == -INFINITY;
    s.keep[t] = nothing ? -INFINITY : before - m;
    s.add[t] = nothing ? -INFINITY : score - m;
    s.largest[t] = m;
  }
  const Vector log2e = hn::Set(d, kLog2E);
  for (int64_t t = 0; t < count; t += kLanes) {
    hn::StoreU(exp2_of(hn::Mul(log2e, hn::LoadU(d, s.keep + t))), d, s.keep + t);
    hn::StoreU(exp2_of(hn::Mul(log2e, hn::LoadU(d, s.add + t))), d, s.add + t);
  }
  for (int64_t t = 0; t < count; ++t) s.sums[t] = u = u * s.keep[t] + s.add[t];
  s.seen[0] = m, s.seen[1] = u;
}

/// lse of a block into `add`, which is not needed any more.
void write_lse(const AnyView& lse, int64_t b, int64_t h, int64_t begin, int64_t count, const ForwardScratch& s) {
  const Lanes d;
  for (int64_t t = 0; t < count; t += kLanes) {
    const Vector sum = hn::LoadU(d, s.sums + t), largest = hn::LoadU(d, s.largest + t);
    const Vector value = hn::MulAdd(hn::Set(d, kLn2), log2_of(sum), largest);
    hn::StoreU(hn::IfThenElse(hn::Eq(sum, hn::Zero(d)), hn::Set(d, -INFINITY), value), d, s.add + t);
  }
  const auto to = lse.as<float>();
  for (int64_t t = 0; t < count; ++t) to.at(b, h, begin + t) = s.add[t];
}

/// w over a block for kVectors vectors of columns, of which the last holds `lanes` columns.
template <int kVectors, bool kOutputs, class In, class Out>
HWY_INLINE void scan_values(const In* HWY_RESTRICT v, int64_t v_stride, Out* HWY_RESTRICT out, int64_t out_stride,
                            int64_t count, int64_t lanes, float* HWY_RESTRICT w, const ForwardScratch& s) {
  const Lanes d;
  Vector sum[kVectors];
  HWY_UNROLL(4) for (int i = 0; i < kVectors; ++i) sum[i] = hn::LoadU(d, w + i * kLanes);
  const bool whole = lanes >= kLanes;
  for (int64_t t = 0; t < count; ++t) {
    const Vector keep = hn::Set(d, s.keep[t]), add = hn::Set(d, s.add[t]), inverse = hn::Set(d, s.inverse[t]);
    HWY_UNROLL(4) for (int i = 0; i < kVectors; ++i) {
      const In* from = v + t * v_stride + i * kLanes;
      const Vector value = whole || i + 1 < kVectors ? load_vector(from) : load_some(from, lanes);
      sum[i] = hn::MulAdd(sum[i], keep, hn::Mul(add, value));
      if constexpr (kOutputs) {
        const Vector result = hn::Mul(sum[i], inverse);
        Out* to = out + t * out_stride + i * kLanes;
        whole || i + 1 < kVectors ? store_vector(result, to) : store_some(result, to, lanes);
      }
    }
  }
  HWY_UNROLL(4) for (int i = 0; i < kVectors; ++i) hn::StoreU(sum[i], d, w + i * kLanes);
}

template <bool kOutputs>
void scan_block(const SoftmaxScanTask& task, const ScanUnit& unit, int64_t head, int64_t begin, int64_t count,
                const ForwardScratch& s) {
  with_float_type(task.p.v, [&](auto* data) {
    using Element = std::remove_pointer_t<decltype(data)>;
    const auto v = task.p.v.as<const Element>();
    const auto out = task.p.out.as<Element>();
    const Element* from = v.row(unit.batch, task.value_head(head), begin);
    Element* to = out.row(unit.batch, head, begin);
    const auto run = [&](int64_t column, auto vectors) {
      scan_values<vectors(), kOutputs>(from + column, v.stride[2], to + column, out.stride[2], count,
                                       task.width - column - (vectors() - 1) * kLanes, s.seen + 2 + column, s);
    };
    int64_t c = 0;
    for (; c + 3 * kLanes < task.width; c += 4 * kLanes) run(c, std::integral_constant<int, 4>());
    for (; c < task.width; c += kLanes) run(c, std::integral_constant<int, 1>());
  });
}

void RunSoftmaxUnit(const SoftmaxScanTask& task, const ScanUnit& unit, int64_t head, const float* from, float* to,
                    bool outputs, void* memory) {
  const SoftmaxScanParams& p = task.p;
  Arena arena(memory);
  const ForwardScratch s(arena, task);
  std::fill_n(s.seen, task.state_floats() + kLanes, 0.0f);
  s.seen[0] = -INFINITY;
  if (from != nullptr) {
    std::copy_n(from, task.state_floats(), s.seen);
  } else if (outputs && p.initial_state) {
    const float* row = p.initial_state.as<const float>().row(unit.sequence, head, 0);
    std::copy_n(row, task.state_floats(), s.seen);
  }
  for (int64_t t = unit.begin; t < unit.end; t += kTokenBlock) {
    const int64_t count = std::min(kTokenBlock, unit.end - t);
    prepare_block(p.scores, unit.batch, task.score_head(head), t, count, s);
    if (outputs) {
      for (int64_t i = 0; i < count; ++i) s.inverse[i] = s.sums[i] == 0 ? 0 : 1 / s.sums[i];
      scan_block<true>(task, unit, head, t, count, s);
      write_lse(p.lse, unit.batch, head, t, count, s);
    } else {
      scan_block<false>(task, unit, head, t, count, s);
    }
  }
  if (to != nullptr) std::copy_n(s.seen, task.state_floats(), to);
  if (outputs && unit.last && p.final_state)
    std::copy_n(s.seen, task.state_floats(), p.final_state.as<float>().row(unit.sequence, head, 0));
}

int64_t SoftmaxScratchBytes(const SoftmaxScanTask& task) {
  Arena arena;
  const ForwardScratch scratch(arena, task);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunSoftmaxUnit);
HWY_EXPORT(SoftmaxScratchBytes);

void run_softmax_unit(const SoftmaxScanTask& task, const ScanUnit& unit, int64_t head, const float* from, float* to,
                      bool outputs, void* scratch) {
  HEED_DISPATCH(RunSoftmaxUnit)(task, unit, head, from, to, outputs, scratch);
}
int64_t softmax_scratch_bytes(const SoftmaxScanTask& task) { return HEED_DISPATCH(SoftmaxScratchBytes)(task); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
