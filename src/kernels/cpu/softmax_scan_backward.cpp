// The softmax scan, backward. From the last token to the first, with e_t = exp(lse_t - lse_{t+1}) <= 1:
//   R_t = d_out_t + e_t R_{t+1},   r_t = <d_out_t, out_t> - d_lse_t + e_t r_{t+1},
//   dv_t = p_t R_t,   ds_t = p_t (<v_t, R_t> - r_t),   p_t = exp(s_t - lse_t).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/softmax_scan_backward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/softmax_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct BackwardScratch {
  BackwardScratch(Arena& arena, const SoftmaxScanTask& task)
      : columns(round_up(std::max<int64_t>(task.width, 1), kLanes)),
        p(arena.take<float>(kTokenBlock)),
        e(arena.take<float>(kTokenBlock)),
        lse(arena.take<float>(kTokenBlock + 1)),
        d_lse(arena.take<float>(kTokenBlock)),
        d_scores(arena.take<float>(task.shared * kTokenBlock)),
        v(rows(arena)),
        out(rows(arena)),
        d_out(rows(arena)),
        d_v(arena.take<float>(task.shared * kTokenBlock * columns)),
        value_products(arena.take<float>(kTokenBlock * kLanes)),
        output_products(arena.take<float>(kTokenBlock * kLanes)),
        sums(arena.take<float>(task.shared * columns)),
        r(arena.take<float>(task.shared)),
        next_lse(arena.take<float>(task.shared)),
        next_p(arena.take<float>(task.shared)) {}
  float* rows(Arena& arena) const { return arena.take<float>(kTokenBlock * columns); }

  int64_t columns;                          ///< of values, in whole vectors
  float *p, *e, *lse, *d_lse;               ///< a number a token
  float* d_scores;                          ///< [shared][kTokenBlock]
  float *v, *out, *d_out;                   ///< rows that cannot be read in place
  float* d_v;                               ///< [shared][kTokenBlock][columns]
  float *value_products, *output_products;  ///< [kTokenBlock] vectors: <v_t, R_t> and <d_out_t, out_t> before lanes add
  float *sums, *r, *next_lse, *next_p;      ///< of every head: R [columns], r, lse and p of the token behind
};

/// R over a block, last token to first, for kVectors vectors of columns.
template <int kVectors, bool kOutputs>
HWY_INLINE void unscan_values(int64_t count, int64_t column, FloatRows v, FloatRows out, FloatRows d_out, float* d_v,
                              float* sums, const BackwardScratch& s) {
  const Lanes d;
  Vector sum[kVectors];
  HWY_UNROLL(4) for (int i = 0; i < kVectors; ++i) sum[i] = hn::LoadU(d, sums + column + i * kLanes);
  for (int64_t t = count - 1; t >= 0; --t) {
    const Vector e = hn::Set(d, s.e[t]), p = hn::Set(d, s.p[t]);
    Vector of_outputs = hn::LoadU(d, s.output_products + t * kLanes), of_values = hn::Zero(d);
    if constexpr (kOutputs) of_values = hn::LoadU(d, s.value_products + t * kLanes);
    HWY_UNROLL(4) for (int i = 0; i < kVectors; ++i) {
      const int64_t c = column + i * kLanes;
      const Vector gradient = d_out.data == nullptr ? hn::Zero(d) : hn::LoadU(d, d_out.data + t * d_out.stride + c);
      sum[i] = hn::MulAdd(sum[i], e, gradient);
      of_outputs = hn::MulAdd(gradient, hn::LoadU(d, out.data + t * out.stride + c), of_outputs);
      if constexpr (kOutputs) {
        of_values = hn::MulAdd(sum[i], hn::LoadU(d, v.data + t * v.stride + c), of_values);
        hn::StoreU(hn::Mul(p, sum[i]), d, d_v + t * s.columns + c);
      }
    }
    hn::StoreU(of_outputs, d, s.output_products + t * kLanes);
    if constexpr (kOutputs) hn::StoreU(of_values, d, s.value_products + t * kLanes);
  }
  HWY_UNROLL(4) for (int i = 0; i < kVectors; ++i) hn::StoreU(sum[i], d, sums + column + i * kLanes);
}

class UnitBackward {
 public:
  UnitBackward(const SoftmaxScanTask& task, const SoftmaxScanGrads& grads, const ScanUnit& unit, int64_t first,
               const LargestScore* largest, Arena& arena)
      : task_(task), p_(task.p), g_(grads), unit_(unit), first_(first), largest_(largest), s_(arena, task) {}

  template <bool kOutputs>
  void run(float* behind) const {
    const int64_t tokens = unit_.end - unit_.begin, width = task_.width;
    for (int64_t h = 0; h < task_.shared && tokens > 0; ++h) {
      s_.r[h] = behind[h * (width + 1)];
      std::fill_n(s_.sums + h * s_.columns, s_.columns, 0.0f);
      std::copy_n(behind + h * (width + 1) + 1, width, s_.sums + h * s_.columns);
      s_.next_lse[h] = p_.lse.as<const float>().at(unit_.batch, first_ + h, unit_.end - 1);
      s_.next_p[h] = 0;
    }
    for (int64_t block = (tokens + kTokenBlock - 1) / kTokenBlock - 1; block >= 0; --block) {
      const int64_t begin = unit_.begin + block * kTokenBlock, count = std::min(kTokenBlock, unit_.end - begin);
      for (int64_t h = 0; h < task_.shared; ++h) run_head<kOutputs>(h, begin, count);
      if constexpr (kOutputs) write_block(begin, count);
    }
    for (int64_t h = 0; h < task_.shared && tokens > 0; ++h) {
      behind[h * (width + 1)] = s_.r[h];
      std::copy_n(s_.sums + h * s_.columns, width, behind + h * (width + 1) + 1);
    }
  }

 private:
  FloatRows rows(const AnyView& view, int64_t h, int64_t begin, int64_t count, float* scratch) const {
    return vector_rows(view, unit_.batch, h, begin, count, scratch, true);
  }

  /// p and e of a block; the weight of nothing is 0.
  void prepare_weights(int64_t h, int64_t begin, int64_t count) const {
    const Lanes d;
    const int64_t head = first_ + h;
    read_scores(p_.scores, unit_.batch, task_.score_head(head), begin, count, s_.p);
    read_scores(p_.lse, unit_.batch, head, begin, count, s_.lse);
    s_.lse[count] = s_.next_lse[h];
    for (int64_t t = 0; t < count; ++t) {
      const bool nothing = s_.lse[t] == -INFINITY;
      s_.p[t] = nothing ? -INFINITY : s_.p[t] - s_.lse[t];
      s_.e[t] = nothing ? -INFINITY : s_.lse[t] - s_.lse[t + 1];
    }
    s_.next_lse[h] = s_.lse[0];
    const Vector log2e = hn::Set(d, kLog2E);
    for (int64_t t = 0; t < count; t += kLanes) {
      hn::StoreU(exp2_of(hn::Mul(log2e, hn::LoadU(d, s_.p + t))), d, s_.p + t);
      hn::StoreU(exp2_of(hn::Mul(log2e, hn::LoadU(d, s_.e + t))), d, s_.e + t);
    }
    // What a small weight leaves of 1 is closer to e than a difference of two logarithms, and thousands are multiplied.
    for (int64_t t = 0; t < count; ++t) {
      const float next = t + 1 < count ? s_.p[t + 1] : s_.next_p[h];
      if (next < 0.5f && s_.lse[t] != -INFINITY) s_.e[t] = 1 - next;
    }
    s_.next_p[h] = s_.p[0];
  }

  template <bool kOutputs>
  void run_head(int64_t h, int64_t begin, int64_t count) const {
    const Lanes d;
    const int64_t head = first_ + h;
    prepare_weights(h, begin, count);
    const FloatRows v = kOutputs ? rows(p_.v, task_.value_head(head), begin, count, s_.v) : FloatRows{nullptr, 0};
    const FloatRows out = rows(p_.out, head, begin, count, s_.out);
    const FloatRows d_out = g_.d_out ? rows(g_.d_out, head, begin, count, s_.d_out) : FloatRows{nullptr, 0};
    std::fill_n(s_.output_products, count * kLanes, 0.0f);
    std::fill_n(s_.value_products, count * kLanes, 0.0f);
    float *d_v = s_.d_v + h * kTokenBlock * s_.columns, *sums = s_.sums + h * s_.columns;
    int64_t c = 0;
    for (; c + 4 * kLanes <= s_.columns; c += 4 * kLanes)
      unscan_values<4, kOutputs>(count, c, v, out, d_out, d_v, sums, s_);
    for (; c < s_.columns; c += kLanes) unscan_values<1, kOutputs>(count, c, v, out, d_out, d_v, sums, s_);
    if (g_.d_lse) read_scores(g_.d_lse, unit_.batch, head, begin, count, s_.d_lse);
    for (int64_t t = count - 1; t >= 0; --t) {
      const float product = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, s_.output_products + t * kLanes)));
      s_.r[h] = product - (g_.d_lse ? s_.d_lse[t] : 0) + s_.e[t] * s_.r[h];
      if constexpr (!kOutputs) continue;
      const float of_values = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, s_.value_products + t * kLanes)));
      float gradient = s_.p[t] * (of_values - s_.r[h]);
      if (largest_ != nullptr && largest_[h].token == begin + t) gradient += largest_[h].gradient;
      s_.d_scores[h * kTokenBlock + t] = gradient;
    }
  }

  /// Heads that share scores or values leave their sum.
  void write_block(int64_t begin, int64_t count) const {
    for (int64_t h = 0; h < task_.shared; ++h) {
      const int64_t score_head = task_.score_head(first_ + h), value_head = task_.value_head(first_ + h);
      const bool own_scores = h == 0 || score_head != task_.score_head(first_ + h - 1);
      const bool own_values = h == 0 || value_head != task_.value_head(first_ + h - 1);
      for (int64_t other = h + 1; other < task_.shared; ++other) {
        if (own_scores && task_.score_head(first_ + other) == score_head)
          add(s_.d_scores + other * kTokenBlock, count, s_.d_scores + h * kTokenBlock);
        if (own_values && task_.value_head(first_ + other) == value_head)
          add(s_.d_v + other * kTokenBlock * s_.columns, count * s_.columns, s_.d_v + h * kTokenBlock * s_.columns);
      }
      if (own_scores && g_.d_scores) {
        with_float_type(g_.d_scores, [&](auto* data) {
          const auto to = g_.d_scores.as<std::remove_pointer_t<decltype(data)>>();
          for (int64_t t = 0; t < count; ++t)
            write_row(s_.d_scores + h * kTokenBlock + t, 1, 1, to.row(unit_.batch, score_head, begin + t));
        });
      }
      if (own_values && g_.d_v) {
        with_float_type(g_.d_v, [&](auto* data) {
          const auto to = g_.d_v.as<std::remove_pointer_t<decltype(data)>>();
          for (int64_t t = 0; t < count; ++t) {
            write_row(s_.d_v + (h * kTokenBlock + t) * s_.columns, 1, task_.width,
                      to.row(unit_.batch, value_head, begin + t));
          }
        });
      }
    }
  }

  static void add(const float* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
  }

  const SoftmaxScanTask& task_;
  const SoftmaxScanParams& p_;
  const SoftmaxScanGrads& g_;
  const ScanUnit& unit_;
  const int64_t first_;
  const LargestScore* largest_;
  const BackwardScratch s_;
};

void RunSoftmaxUnitBackward(const SoftmaxScanTask& task, const SoftmaxScanGrads& grads, const ScanUnit& unit,
                            int64_t first, float* behind, const LargestScore* largest, bool outputs, void* memory) {
  Arena arena(memory);
  const UnitBackward backward(task, grads, unit, first, largest, arena);
  outputs ? backward.run<true>(behind) : backward.run<false>(behind);
}

int64_t SoftmaxBackwardBytes(const SoftmaxScanTask& task) {
  Arena arena;
  const BackwardScratch scratch(arena, task);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunSoftmaxUnitBackward);
HWY_EXPORT(SoftmaxBackwardBytes);

void run_softmax_unit_backward(const SoftmaxScanTask& task, const SoftmaxScanGrads& grads, const ScanUnit& unit,
                               int64_t first, float* behind, const LargestScore* largest, bool outputs, void* scratch) {
  HEED_DISPATCH(RunSoftmaxUnitBackward)(task, grads, unit, first, behind, largest, outputs, scratch);
}
int64_t softmax_backward_scratch_bytes(const SoftmaxScanTask& task) {
  return HEED_DISPATCH(SoftmaxBackwardBytes)(task);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
