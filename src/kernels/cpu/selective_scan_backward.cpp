// The selective scan, backward: states are scanned again, a block of tokens at a time, and their gradients run over
// them from the last token to the first. B and C are shared by channels, so their gradients are summed over lanes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_backward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

constexpr int kMostParts = kRealStates > 2 * kComplexStates ? kRealStates : 2 * kComplexStates;

int64_t blocks_of(const ScanUnit& unit) { return (unit.end - unit.begin + kScanBlock - 1) / kScanBlock; }

/// What a thread holds of a slice beside what the forward does.
struct AdjointScratch {
  AdjointScratch(Arena& arena, const SelectiveScanTask& task)
      : forward(arena, task),
        d_h(arena.take<float>(task.state_floats())),
        h_of_block(arena.take<float>(task.state_floats())),
        d_b(arena.take<float>(kScanBlock * task.width * kLanes)),
        d_c(arena.take<float>(kScanBlock * task.width * kLanes)),
        before(arena.take<float>((kScanBlock + 1) * kMostParts * kLanes)),
        decay(arena.take<float>(kScanBlock * kMostParts * kLanes)),
        d_y(ColumnBlock::take(arena)),
        d_write(ColumnBlock::take(arena)),
        d_step(ColumnBlock::take(arena)) {}

  SliceScratch forward;
  float *d_h, *h_of_block;
  float *d_b, *d_c;       ///< [kScanBlock][width][lanes]: summed over the vectors of the slice
  float *before, *decay;  ///< [kScanBlock][states of a group]: of the states that share registers
  float *d_y, *d_write, *d_step;
};

/// d_y of a block: d_out, through the gate where there is one.
HWY_INLINE void read_output_gradients(const SelectiveScanTask& task, const SelectiveScanGrads& g, const ScanUnit& unit,
                                      int64_t begin, int64_t count, int64_t channel, int64_t lanes,
                                      const ColumnBlock& column, float* d_y) {
  const Lanes d;
  if (!g.d_out) {
    std::fill_n(d_y, count * kLanes, 0.0f);
    return;
  }
  read_column(g.d_out, unit.batch, 0, begin, count, channel, lanes, d_y, begin - kScanBlock);
  if (!task.p.z) return;
  read_column(task.p.z, unit.batch, 0, begin, count, channel, lanes, column.z);
  for (int64_t t = 0; t < count * kLanes; t += kLanes) {
    const Vector z = hn::LoadU(d, column.z + t);
    hn::StoreU(hn::Mul(hn::LoadU(d, d_y + t), hn::Mul(z, sigmoid_of(z))), d, d_y + t);
  }
}

/// Gradients of the gate, of which `column.y` holds the other factor.
void write_gate_gradients(const SelectiveScanGrads& g, const ScanUnit& unit, int64_t begin, int64_t count,
                          int64_t channel, int64_t lanes, const ColumnBlock& column) {
  const Lanes d;
  if (g.d_out) {
    const Vector one = hn::Set(d, 1.0f);
    // x holds d_out: the inputs are not needed any more.
    read_column(g.d_out, unit.batch, 0, begin, count, channel, lanes, column.x);
    for (int64_t t = 0; t < count * kLanes; t += kLanes) {
      const Vector z = hn::LoadU(d, column.z + t), open = sigmoid_of(z);
      const Vector slope = hn::Mul(open, hn::MulAdd(z, hn::Sub(one, open), one));
      hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, column.x + t), hn::LoadU(d, column.y + t)), slope), d, column.y + t);
    }
  } else {
    std::fill_n(column.y, count * kLanes, 0.0f);
  }
  write_column(column.y, g.d_z, unit.batch, 0, begin, count, channel, lanes);
}

/// The adjoint of scan_states over the same tokens, last to first. `d_h` is the gradient of the states after the block
/// and becomes that of those before it. With kAll, `s.before` and `s.decay` hold what scan_states saw.
template <int kStates, bool kComplex, bool kAll>
HWY_INLINE void unscan_states(int64_t first, int64_t width, int64_t count, const float* HWY_RESTRICT a,
                              float* HWY_RESTRICT d_h, float* HWY_RESTRICT d_a, int64_t stride, FloatRows b,
                              FloatRows c, const AdjointScratch& s) {
  constexpr int kParts = kComplex ? 2 : 1, kRows = kStates * kParts;
  const Lanes d;
  const int64_t row = first * kParts;
  const ColumnBlock& column = s.forward.column;
  Vector gradient[kRows], rate[kRows], d_rate[kRows];
  HWY_UNROLL(8) for (int n = 0; n < kRows; ++n) {
    gradient[n] = hn::LoadU(d, d_h + (row + n) * stride);
    rate[n] = hn::LoadU(d, a + (row + n) * stride);
    d_rate[n] = hn::Zero(d);
  }
  for (int64_t t = count - 1; t >= 0; --t) {
    const int64_t at = t * kLanes;
    const float *HWY_RESTRICT bt = b.data + t * b.stride + row, *HWY_RESTRICT ct = c.data + t * c.stride + row;
    const float* before = s.before + t * kRows * kLanes;
    const float* decays = s.decay + t * kRows * kLanes;
    float *d_b = s.d_b + (t * width + row) * kLanes, *d_c = s.d_c + (t * width + row) * kLanes;
    const Vector d_y = hn::LoadU(d, s.d_y + at), step = hn::LoadU(d, column.step + at);
    const Vector write = hn::LoadU(d, column.write + at);
    Vector d_write = hn::Zero(d), d_step = hn::Zero(d);
    if constexpr (kAll) d_write = hn::LoadU(d, s.d_write + at), d_step = hn::LoadU(d, s.d_step + at);
    const auto add = [&](float* to, Vector x, Vector y) { hn::StoreU(hn::MulAdd(x, y, hn::LoadU(d, to)), d, to); };
    HWY_UNROLL(8) for (int n = 0; n < kStates; ++n) {
      if constexpr (!kComplex) {
        const Vector b_n = hn::Set(d, bt[n]);
        gradient[n] = hn::MulAdd(d_y, hn::Set(d, ct[n]), gradient[n]);
        if constexpr (kAll) {
          add(d_c + n * kLanes, d_y, hn::LoadU(d, before + (kRows + n) * kLanes));
          add(d_b + n * kLanes, write, gradient[n]);
          d_write = hn::MulAdd(gradient[n], b_n, d_write);
          gradient[n] = hn::Mul(gradient[n], hn::LoadU(d, decays + n * kLanes));
          const Vector q = hn::Mul(gradient[n], hn::LoadU(d, before + n * kLanes));
          d_step = hn::MulAdd(q, rate[n], d_step);
          d_rate[n] = hn::MulAdd(q, step, d_rate[n]);
        } else {
          const Vector log2e = hn::LoadU(d, column.step_log2e + at);
          gradient[n] = hn::Mul(gradient[n], decay_of<false>(step, log2e, rate[n], rate[n]).re);
        }
      } else {
        Vector &re = gradient[2 * n], &im = gradient[2 * n + 1];
        const Vector b_re = hn::Set(d, bt[2 * n]), b_im = hn::Set(d, bt[2 * n + 1]);
        // The conjugate state beside each counts twice.
        const Vector twice = hn::Add(d_y, d_y);
        re = hn::MulAdd(twice, hn::Set(d, ct[2 * n]), re);
        im = hn::NegMulAdd(twice, hn::Set(d, ct[2 * n + 1]), im);
        Decay decay;
        if constexpr (kAll) {
          add(d_c + 2 * n * kLanes, twice, hn::LoadU(d, before + (kRows + 2 * n) * kLanes));
          add(d_c + (2 * n + 1) * kLanes, twice, hn::Neg(hn::LoadU(d, before + (kRows + 2 * n + 1) * kLanes)));
          add(d_b + 2 * n * kLanes, write, re);
          add(d_b + (2 * n + 1) * kLanes, write, im);
          d_write = hn::MulAdd(re, b_re, hn::MulAdd(im, b_im, d_write));
          decay = {hn::LoadU(d, decays + 2 * n * kLanes), hn::LoadU(d, decays + (2 * n + 1) * kLanes)};
        } else {
          decay = decay_of<true>(step, hn::LoadU(d, column.step_log2e + at), rate[2 * n], rate[2 * n + 1]);
        }
        const Vector was = re;
        re = hn::MulAdd(re, decay.re, hn::Mul(im, decay.im));
        im = hn::NegMulAdd(was, decay.im, hn::Mul(im, decay.re));
        if constexpr (kAll) {
          const Vector h_re = hn::LoadU(d, before + 2 * n * kLanes), h_im = hn::LoadU(d, before + (2 * n + 1) * kLanes);
          const Vector q_re = hn::MulAdd(re, h_re, hn::Mul(im, h_im)),
                       q_im = hn::NegMulAdd(re, h_im, hn::Mul(im, h_re));
          d_step = hn::MulAdd(q_re, rate[2 * n], hn::MulAdd(q_im, rate[2 * n + 1], d_step));
          d_rate[2 * n] = hn::MulAdd(q_re, step, d_rate[2 * n]);
          d_rate[2 * n + 1] = hn::MulAdd(q_im, step, d_rate[2 * n + 1]);
        }
      }
    }
    if constexpr (kAll) hn::StoreU(d_write, d, s.d_write + at), hn::StoreU(d_step, d, s.d_step + at);
  }
  HWY_UNROLL(8) for (int n = 0; n < kRows; ++n) {
    hn::StoreU(gradient[n], d, d_h + (row + n) * stride);
    if constexpr (kAll) {
      float* to = d_a + (row + n) * stride;
      hn::StoreU(hn::Add(hn::LoadU(d, to), d_rate[n]), d, to);
    }
  }
}

/// Both ways over one group of states.
template <int kStates, bool kComplex>
HWY_INLINE void scan_and_unscan(const SelectiveScanTask& task, int64_t first, int64_t count, int64_t v, float* d_a,
                                FloatRows b, FloatRows c, const AdjointScratch& s) {
  constexpr int kRows = kStates * (kComplex ? 2 : 1);
  const Lanes d;
  float* h = s.h_of_block + v;
  const auto keep = [&](int64_t t, int n, const Vector* before, const Decay& decay) {
    const int64_t at = (t * kRows + n * (kComplex ? 2 : 1)) * kLanes;
    hn::StoreU(before[0], d, s.before + at);
    hn::StoreU(decay.re, d, s.decay + at);
    if constexpr (kComplex) {
      hn::StoreU(before[1], d, s.before + at + kLanes);
      hn::StoreU(decay.im, d, s.decay + at + kLanes);
    }
  };
  scan_states<kStates, kComplex, true>(first, count, s.forward.a + v, h, task.slice_width, b, c, s.forward.column,
                                       keep);
  for (int n = 0; n < kRows; ++n) {
    const float* last = h + (first * (kComplex ? 2 : 1) + n) * task.slice_width;
    hn::StoreU(hn::LoadU(d, last), d, s.before + (count * kRows + n) * kLanes);
  }
  unscan_states<kStates, kComplex, true>(first, task.width, count, s.forward.a + v, s.d_h + v, d_a + v,
                                         task.slice_width, b, c, s);
}

class UnitBackward {
 public:
  UnitBackward(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
               const ScanUnit& unit, const ScanSums& sums, void* memory)
      : task_(task), p_(task.p), g_(grads), slice_(slice), unit_(unit), sums_(sums), arena_(memory), s_(arena_, task) {
    pack_states(task, slice, p_.a, 0, s_.forward.a);
  }

  void run(const ScanEnds& ends) {
    float* starts = arena_.take<float>(blocks_of(unit_) * task_.state_floats());
    load(ends.from, p_.initial_state, s_.forward.h);
    load(ends.to, g_.d_final_state, s_.d_h);
    for (int64_t block = 0; block < blocks_of(unit_); ++block) {
      std::copy_n(s_.forward.h, task_.state_floats(), starts + block * task_.state_floats());
      if (block + 1 < blocks_of(unit_)) advance(unit_.begin + block * kScanBlock);
    }
    for (int64_t block = blocks_of(unit_) - 1; block >= 0; --block) {
      std::copy_n(starts + block * task_.state_floats(), task_.state_floats(), s_.h_of_block);
      run_block(unit_.begin + block * kScanBlock);
    }
    finish(ends);
  }

  void run_adjoint(const ScanEnds& ends) {
    std::fill_n(s_.d_h, task_.state_floats(), 0.0f);
    for (int64_t block = blocks_of(unit_) - 1; block >= 0; --block) {
      const int64_t begin = unit_.begin + block * kScanBlock, count = std::min(kScanBlock, unit_.end - begin);
      const FloatRows c = coefficient_rows(p_.c, unit_.batch, slice_.c_group, begin, count, s_.forward.c);
      each_column([&](int64_t v, int64_t channel, int64_t lanes) {
        prepare_column(p_, unit_.batch, begin, count, channel, lanes, s_.forward.column, begin - kScanBlock);
        read_output_gradients(task_, g_, unit_, begin, count, channel, lanes, s_.forward.column, s_.d_y);
        each_group([&](int64_t n, auto states, auto complex) {
          unscan_states<states(), complex(), false>(n, task_.width, count, s_.forward.a + v, s_.d_h + v, nullptr,
                                                    task_.slice_width, c, c, s_);
        });
      });
    }
    std::copy_n(s_.d_h, task_.state_floats(), ends.to);
  }

 private:
  void load(const float* from, const AnyView& view, float* to) const {
    if (from != nullptr) {
      std::copy_n(from, task_.state_floats(), to);
    } else {
      pack_states(task_, slice_, view, unit_.sequence, to);
    }
  }

  template <class Visit>
  HWY_INLINE void each_column(const Visit& visit) const {
    for (int64_t v = 0; v < slice_.count(); v += kLanes) visit(v, slice_.begin + v, slice_.count() - v);
  }
  template <class Run>
  HWY_INLINE void each_group(const Run& run) const {
    if (p_.complex) {
      for_each_group<kComplexStates>(task_.width / 2,
                                     [&](int64_t n, auto states) { run(n, states, std::true_type()); });
    } else {
      for_each_group<kRealStates>(task_.width, [&](int64_t n, auto states) { run(n, states, std::false_type()); });
    }
  }

  /// The states over one block, forward.
  void advance(int64_t begin) const {
    const FloatRows b = coefficient_rows(p_.b, unit_.batch, slice_.b_group, begin, kScanBlock, s_.forward.b);
    each_column([&](int64_t v, int64_t channel, int64_t lanes) {
      prepare_column(p_, unit_.batch, begin, kScanBlock, channel, lanes, s_.forward.column, begin + kScanBlock);
      scan_column<false>(task_, kScanBlock, s_.forward.a + v, s_.forward.h + v, b, b, s_.forward.column);
    });
  }

  void run_block(int64_t begin) const {
    const int64_t count = std::min(kScanBlock, unit_.end - begin);
    const FloatRows b = coefficient_rows(p_.b, unit_.batch, slice_.b_group, begin, count, s_.forward.b),
                    c = coefficient_rows(p_.c, unit_.batch, slice_.c_group, begin, count, s_.forward.c);
    std::fill_n(s_.d_b, count * task_.width * kLanes, 0.0f);
    std::fill_n(s_.d_c, count * task_.width * kLanes, 0.0f);
    each_column([&](int64_t v, int64_t channel, int64_t lanes) {
      const ColumnBlock& column = s_.forward.column;
      prepare_column(p_, unit_.batch, begin, count, channel, lanes, column, begin - kScanBlock);
      start_outputs(p_, count, channel, lanes, column);
      read_output_gradients(task_, g_, unit_, begin, count, channel, lanes, column, s_.d_y);
      std::fill_n(s_.d_write, count * kLanes, 0.0f);
      std::fill_n(s_.d_step, count * kLanes, 0.0f);
      each_group([&](int64_t n, auto states, auto complex) {
        scan_and_unscan<states(), complex()>(task_, n, count, v, sums_.d_a, b, c, s_);
      });
      finish_column(begin, count, v, channel, lanes);
    });
    if (sums_.d_b != nullptr) add_lanes(s_.d_b, begin, count, sums_.d_b);
    if (sums_.d_c != nullptr) add_lanes(s_.d_c, begin, count, sums_.d_c);
  }

  /// From the gradients of Delta x and of the decays' Delta to those of the inputs.
  void finish_column(int64_t begin, int64_t count, int64_t v, int64_t channel, int64_t lanes) const {
    const Lanes d;
    const ColumnBlock& column = s_.forward.column;
    const Vector skip = p_.skip ? load_lanes(p_.skip.as<const float>().data + channel, lanes) : hn::Zero(d);
    float *d_skip = sums_.d_channels + v, *d_bias = d_skip + task_.slice_width;
    Vector skip_sum = hn::LoadU(d, d_skip), bias_sum = hn::LoadU(d, d_bias);
    for (int64_t t = 0; t < count * kLanes; t += kLanes) {
      const Vector step = hn::LoadU(d, column.step + t), x = hn::LoadU(d, column.x + t), d_y = hn::LoadU(d, s_.d_y + t);
      const Vector d_write = hn::LoadU(d, s_.d_write + t);
      Vector d_step = hn::MulAdd(d_write, x, hn::LoadU(d, s_.d_step + t));
      if (p_.delta_softplus) {
        // The slope of softplus is sigmoid(raw) = 1 - exp(-step).
        const Vector exponent = hn::Max(hn::Neg(hn::LoadU(d, column.step_log2e + t)), hn::Set(d, -126.0f));
        d_step = hn::Neg(hn::Mul(d_step, exp2_minus_1(exponent)));
      }
      bias_sum = hn::Add(bias_sum, d_step);
      skip_sum = hn::MulAdd(d_y, x, skip_sum);
      hn::StoreU(d_step, d, s_.d_step + t);
      hn::StoreU(hn::MulAdd(step, d_write, hn::Mul(skip, d_y)), d, s_.d_write + t);
    }
    hn::StoreU(skip_sum, d, d_skip);
    hn::StoreU(bias_sum, d, d_bias);
    if (g_.d_x) write_column(s_.d_write, g_.d_x, unit_.batch, 0, begin, count, channel, lanes, begin - kScanBlock);
    if (g_.d_delta)
      write_column(s_.d_step, g_.d_delta, unit_.batch, 0, begin, count, channel, lanes, begin - kScanBlock);
    if (g_.d_z) write_gate_gradients(g_, unit_, begin, count, channel, lanes, column);
  }

  void add_lanes(const float* from, int64_t begin, int64_t count, float* rows) const {
    const Lanes d;
    float* to = rows + (unit_.batch * p_.x.size[2] + begin) * task_.width;
    for (int64_t i = 0; i < count * task_.width; ++i)
      to[i] = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, from + i * kLanes)));
  }

  void finish(const ScanEnds& ends) const {
    if (ends.to != nullptr) std::copy_n(s_.d_h, task_.state_floats(), ends.to);
    if (unit_.first && g_.d_initial_state) store_states(task_, slice_, s_.d_h, g_.d_initial_state, unit_.sequence);
  }

  const SelectiveScanTask& task_;
  const SelectiveScanParams& p_;
  const SelectiveScanGrads& g_;
  const ChannelSlice& slice_;
  const ScanUnit& unit_;
  const ScanSums& sums_;
  Arena arena_;
  const AdjointScratch s_;
};

void RunScanUnitBackward(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
                         const ScanUnit& unit, const ScanEnds& ends, const ScanSums& sums, void* scratch) {
  const FlushDenormals flush;
  UnitBackward(task, grads, slice, unit, sums, scratch).run(ends);
}

void RunScanUnitAdjoint(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
                        const ScanUnit& unit, const ScanEnds& ends, void* scratch) {
  const FlushDenormals flush;
  UnitBackward(task, grads, slice, unit, {}, scratch).run_adjoint(ends);
}

int64_t ScanBackwardBytes(const SelectiveScanTask& task) {
  Arena arena;
  const AdjointScratch scratch(arena, task);
  int64_t blocks = 0;
  for (const ScanUnit& unit : task.units) blocks = std::max(blocks, blocks_of(unit));
  arena.take<float>(blocks * task.state_floats());
  return arena.used();
}

/// Row `t` of a group's gradient: the sum of the slices' rows, in order.
void SumSlices(const float* rows, int64_t slice_floats, int64_t slices, const AnyView& to, int64_t b, int64_t group,
               int64_t t, float* scratch) {
  const int64_t width = to.size[3];
  std::copy_n(rows, width, scratch);
  for (int64_t s = 1; s < slices; ++s) {
    for (int64_t n = 0; n < width; ++n) scratch[n] += rows[s * slice_floats + n];
  }
  with_float_type(to, [&](auto* data) {
    write_row(scratch, 1, width, to.as<std::remove_pointer_t<decltype(data)>>().row(b, group, t));
  });
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunScanUnitBackward);
HWY_EXPORT(RunScanUnitAdjoint);
HWY_EXPORT(ScanBackwardBytes);
HWY_EXPORT(SumSlices);

void run_scan_unit_backward(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
                            const ScanUnit& unit, const ScanEnds& ends, const ScanSums& sums, void* scratch) {
  HEED_DISPATCH(RunScanUnitBackward)(task, grads, slice, unit, ends, sums, scratch);
}
void run_scan_unit_adjoint(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
                           const ScanUnit& unit, const ScanEnds& ends, void* scratch) {
  HEED_DISPATCH(RunScanUnitAdjoint)(task, grads, slice, unit, ends, scratch);
}
int64_t scan_backward_scratch_bytes(const SelectiveScanTask& task) { return HEED_DISPATCH(ScanBackwardBytes)(task); }
void sum_slices(const float* rows, int64_t slice_floats, int64_t slices, const AnyView& to, int64_t b, int64_t group,
                int64_t t, float* scratch) {
  HEED_DISPATCH(SumSlices)(rows, slice_floats, slices, to, b, group, t, scratch);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
