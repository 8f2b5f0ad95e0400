// The selective scan, forward.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

void StoreStates(const SelectiveScanTask& task, const ChannelSlice& slice, const float* from, const AnyView& view,
                 int64_t sequence) {
  alignas(64) static constexpr std::array<float, kMostSliceChannels> kOnes = [] {
    std::array<float, kMostSliceChannels> ones{};
    ones.fill(1);
    return ones;
  }();
  unpack_rows(from, task.slice_width, slice.count(), task.width, kOnes.data(),
              view.as<float>().row(sequence, 0, slice.begin), view.stride[2]);
}

/// out = y silu(z), or y.
void write_outputs(const SelectiveScanParams& p, const ScanUnit& unit, int64_t begin, int64_t count, int64_t channel,
                   int64_t lanes, const ColumnBlock& column) {
  const Lanes d;
  if (p.z) {
    read_column(p.z, unit.batch, 0, begin, count, channel, lanes, column.z);
    for (int64_t t = 0; t < count * kLanes; t += kLanes) {
      const Vector z = hn::LoadU(d, column.z + t);
      hn::StoreU(hn::Mul(hn::LoadU(d, column.y + t), hn::Mul(z, sigmoid_of(z))), d, column.y + t);
    }
  }
  if (p.out) write_column(column.y, p.out, unit.batch, 0, begin, count, channel, lanes);
}

void RunScanUnit(const SelectiveScanTask& task, const ChannelSlice& slice, const ScanUnit& unit, const ScanEnds& ends,
                 bool outputs, void* memory) {
  const FlushDenormals flush;
  const SelectiveScanParams& p = task.p;
  Arena arena(memory);
  const SliceScratch s(arena, task);
  pack_states(task, slice, p.a, 0, s.a);
  if (ends.from != nullptr) {
    std::copy_n(ends.from, task.state_floats(), s.h);
  } else {
    pack_states(task, slice, outputs ? p.initial_state : AnyView(), unit.sequence, s.h);
  }
  if (ends.steps != nullptr) std::fill_n(ends.steps, task.slice_width, 0.0f);
  // The lines of a block come in while the one before it is scanned.
  const int64_t scans = task.p.complex ? (task.width / 2 + kComplexStates - 1) / kComplexStates
                                       : (task.width + kRealStates - 1) / kRealStates;
  RowsAhead ahead(static_cast<int>((RowsAhead::kRequests * kTokensAStep + scans - 1) / scans));
  for_each_block(unit, [&](int64_t begin, int64_t count) {
    const FloatRows b = coefficient_rows(p.b, unit.batch, slice.b_group, begin, count, s.b);
    const FloatRows c = outputs ? coefficient_rows(p.c, unit.batch, slice.c_group, begin, count, s.c) : b;
    int request = 0;
    for (const AnyView* view : {&p.x, &p.delta, &p.z, &p.out}) {
      if (!*view || (!outputs && request == 2)) continue;
      ahead.ask(request++, *view, unit.batch, 0, begin + count, std::min(begin + count + kScanBlock, unit.end), nullptr,
                slice.begin, slice.count());
    }
    for (int64_t v = 0; v < slice.count(); v += kLanes) {
      const int64_t channel = slice.begin + v, lanes = slice.count() - v;
      prepare_column(p, unit.batch, begin, count, channel, lanes, s.column);
      if (!outputs) {
        scan_column<false>(task, count, s.a + v, s.h + v, b, c, s.column, &ahead);
        Vector sum = hn::LoadU(Lanes(), ends.steps + v);
        for (int64_t t = 0; t < count; ++t) sum = hn::Add(sum, hn::LoadU(Lanes(), s.column.step + t * kLanes));
        hn::StoreU(sum, Lanes(), ends.steps + v);
        continue;
      }
      start_outputs(p, count, channel, lanes, s.column);
      scan_column<true>(task, count, s.a + v, s.h + v, b, c, s.column, &ahead);
      write_outputs(p, unit, begin, count, channel, lanes, s.column);
    }
  });
  if (ends.to != nullptr) std::copy_n(s.h, task.state_floats(), ends.to);
  if (outputs && unit.last && p.final_state) StoreStates(task, slice, s.h, p.final_state, unit.sequence);
}

int64_t ScanScratchBytes(const SelectiveScanTask& task) {
  Arena arena;
  const SliceScratch scratch(arena, task);
  return arena.used();
}

void LoadStates(const SelectiveScanTask& task, const ChannelSlice& slice, const AnyView& view, int64_t sequence,
                float* to) {
  pack_states(task, slice, view, sequence, to);
}

void JoinStates(const SelectiveScanTask& task, const ChannelSlice& slice, const float* from, const float* steps,
                const float* local, bool conjugate, float* to) {
  const FlushDenormals flush;
  const Lanes d;
  const Block memory = allocate(task.state_floats() * static_cast<int64_t>(sizeof(float)));
  auto* a = static_cast<float*>(memory.get());
  pack_states(task, slice, task.p.a, 0, a);
  for (int64_t v = 0; v < task.slice_width; v += kLanes) {
    const Vector step = hn::LoadU(d, steps + v), log2e = hn::Mul(step, hn::Set(d, kLog2E));
    for (int64_t row = 0; row < task.width; row += task.p.complex ? 2 : 1) {
      const int64_t re = row * task.slice_width + v, im = re + task.slice_width;
      const Vector from_re = hn::LoadU(d, from + re), local_re = hn::LoadU(d, local + re);
      if (!task.p.complex) {
        const Decay decay = decay_of<false>(step, log2e, hn::LoadU(d, a + re), step);
        hn::StoreU(hn::MulAdd(decay.re, from_re, local_re), d, to + re);
        continue;
      }
      Decay decay = decay_of<true>(step, log2e, hn::LoadU(d, a + re), hn::LoadU(d, a + im));
      if (conjugate) decay.im = hn::Neg(decay.im);
      const Vector from_im = hn::LoadU(d, from + im), local_im = hn::LoadU(d, local + im);
      hn::StoreU(hn::MulAdd(decay.re, from_re, hn::NegMulAdd(decay.im, from_im, local_re)), d, to + re);
      hn::StoreU(hn::MulAdd(decay.re, from_im, hn::MulAdd(decay.im, from_re, local_im)), d, to + im);
    }
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunScanUnit);
HWY_EXPORT(ScanScratchBytes);
HWY_EXPORT(LoadStates);
HWY_EXPORT(StoreStates);
HWY_EXPORT(JoinStates);

void run_scan_unit(const SelectiveScanTask& task, const ChannelSlice& slice, const ScanUnit& unit, const ScanEnds& ends,
                   bool outputs, void* scratch) {
  HEED_DISPATCH(RunScanUnit)(task, slice, unit, ends, outputs, scratch);
}
int64_t scan_scratch_bytes(const SelectiveScanTask& task) { return HEED_DISPATCH(ScanScratchBytes)(task); }
void load_states(const SelectiveScanTask& task, const ChannelSlice& slice, const AnyView& view, int64_t sequence,
                 float* to) {
  HEED_DISPATCH(LoadStates)(task, slice, view, sequence, to);
}
void store_states(const SelectiveScanTask& task, const ChannelSlice& slice, const float* from, const AnyView& view,
                  int64_t sequence) {
  HEED_DISPATCH(StoreStates)(task, slice, from, view, sequence);
}
void join_states(const SelectiveScanTask& task, const ChannelSlice& slice, const float* from, const float* steps,
                 const float* local, bool conjugate, float* to) {
  HEED_DISPATCH(JoinStates)(task, slice, from, steps, local, conjugate, to);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
