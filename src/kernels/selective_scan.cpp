// The selective scan over threads: slices of channels of sequences or, where those are few, of chunks.
#include "heed/kernels/selective_scan.h"

#include <optional>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/parallel.h"
#include "kernels/reference/element.h"
#include "kernels/selective_scan_units.h"

namespace heed::kernels {
namespace {

constexpr int64_t kNarrowSlice = 16, kWideSlice = 128, kMostForwardSlice = 512, kGroupSlices = 8, kMostParts = 16;

bool takes_reference(const SelectiveScanParams& p) { return use_reference() || p.x.dtype == DType::f64; }

/// Wide slices, whose rows are long reads, as long as every thread has two or, where that is too much to ask, one.
int64_t forward_slice(const SelectiveScanParams& p) {
  const int64_t channels = count_spans(p, p.x) * p.x.size[3], threads = num_threads();
  const int64_t wanted = std::max(channels / (2 * threads), std::min(kWideSlice, channels / threads));
  return std::clamp((wanted + kNarrowSlice - 1) / kNarrowSlice * kNarrowSlice, kNarrowSlice, kMostForwardSlice);
}

/// Every slice holds sums of B's and C's gradients, so a group is not cut into many.
int64_t backward_slice(const SelectiveScanParams& p) {
  const int64_t group = p.x.size[3] / std::max(p.b.size[1], p.c.size[1]);
  const int64_t channels = (group + kGroupSlices * 16 - 1) / (kGroupSlices * 16) * 16;
  return std::clamp(channels, kNarrowSlice, kMostSliceChannels);
}

/// The sums that units and slices leave behind.
class BackwardSums {
 public:
  BackwardSums(const SelectiveScanTask& task, const SelectiveScanGrads& grads)
      : task_(task),
        g_(grads),
        slices_(static_cast<int64_t>(task.slices.size())),
        parts_(std::clamp<int64_t>(static_cast<int64_t>(task.units.size()), 1, kMostParts)),
        row_floats_(task.p.x.size[0] * task.p.x.size[2] * task.width),
        item_floats_(task.state_floats() + 2 * task.slice_width),
        memory_(allocate(bytes())) {
    Arena arena(memory_.get());
    items_ = arena.take<float>(parts_ * slices_ * item_floats_);
    if (grads.d_b) d_b_ = arena.take<float>(slices_ * row_floats_);
    if (grads.d_c) d_c_ = arena.take<float>(slices_ * row_floats_);
    // Rows are written by the units, the rest is added up.
    std::fill_n(items_, parts_ * slices_ * item_floats_, 0.0f);
  }

  /// Of the units; the units of a part are one item's work.
  int64_t parts() const { return parts_; }

  ScanSums of(int64_t part, int64_t slice) {
    float* item = items_ + (part * slices_ + slice) * item_floats_;
    return {item, item + task_.state_floats(), d_b_ == nullptr ? nullptr : d_b_ + slice * row_floats_,
            d_c_ == nullptr ? nullptr : d_c_ + slice * row_floats_};
  }

  void write() {
    for (int64_t slice = 0; slice < slices_; ++slice) {
      const ScanSums total = of(0, slice);
      for (int64_t part = 1; part < parts_; ++part) {
        const ScanSums more = of(part, slice);
        for (int64_t i = 0; i < task_.state_floats(); ++i) total.d_a[i] += more.d_a[i];
        for (int64_t i = 0; i < 2 * task_.slice_width; ++i) total.d_channels[i] += more.d_channels[i];
      }
      const ChannelSlice& channels = task_.slices[slice];
      if (g_.d_a) store_states(task_, channels, total.d_a, g_.d_a, 0);
      for (int64_t d = 0; d < channels.count(); ++d) {
        if (g_.d_skip) g_.d_skip.as<float>().at(0, 0, 0, channels.begin + d) = total.d_channels[d];
        if (g_.d_delta_bias)
          g_.d_delta_bias.as<float>().at(0, 0, 0, channels.begin + d) = total.d_channels[task_.slice_width + d];
      }
    }
    if (g_.d_b) write_rows(d_b_, g_.d_b, &ChannelSlice::b_group);
    if (g_.d_c) write_rows(d_c_, g_.d_c, &ChannelSlice::c_group);
  }

 private:
  int64_t bytes() const {
    Arena arena;
    arena.take<float>(parts_ * slices_ * item_floats_);
    if (g_.d_b) arena.take<float>(slices_ * row_floats_);
    if (g_.d_c) arena.take<float>(slices_ * row_floats_);
    return arena.used();
  }
  void write_rows(const float* rows, const AnyView& to, int64_t ChannelSlice::*group) const {
    const auto row_bytes = task_.width * static_cast<int64_t>(sizeof(float));
    for (int64_t begin = 0, end = 0; begin < slices_; begin = end) {
      const int64_t g = task_.slices[begin].*group;
      while (end < slices_ && task_.slices[end].*group == g) ++end;
      const int64_t tokens = to.size[2], blocks = (tokens + kScanBlock - 1) / kScanBlock;
      const double work = static_cast<double>(row_floats_ * (end - begin));
      for_each_item(to.size[0] * blocks, row_bytes, work, [&](int64_t item, void* scratch) {
        const int64_t b = item / blocks, first = item % blocks * kScanBlock;
        for (int64_t t = first; t < std::min(tokens, first + kScanBlock); ++t) {
          sum_slices(rows + begin * row_floats_ + (b * tokens + t) * task_.width, row_floats_, end - begin, to, b, g, t,
                     static_cast<float*>(scratch));
        }
      });
    }
  }

  const SelectiveScanTask& task_;
  const SelectiveScanGrads& g_;
  const int64_t slices_, parts_, row_floats_, item_floats_;
  Block memory_;
  float *items_, *d_b_ = nullptr, *d_c_ = nullptr;
};

}  // namespace

void selective_scan(const SelectiveScanParams& p) {
  if (takes_reference(p)) return reference::selective_scan(p);
  check(p);
  if (p.x.size[3] == 0) return;
  const SelectiveScanTask task(p, forward_slice(p), (p.x.size[3] + kNarrowSlice - 1) / kNarrowSlice);
  const auto slices = static_cast<int64_t>(task.slices.size()), units = static_cast<int64_t>(task.units.size());
  std::optional<UnitStates> starts;
  if (task.chunked) starts.emplace(unit_starts(task));
  for_each_item(slices * units, scan_scratch_bytes(task), scan_work(task), [&](int64_t item, void* scratch) {
    const int64_t unit = item / slices, slice = item % slices;
    const ScanEnds ends{starts ? starts->at(unit, slice) : nullptr, nullptr, nullptr};
    run_scan_unit(task, task.slices[slice], task.units[unit], ends, true, scratch);
  });
}

void selective_scan_backward(const SelectiveScanParams& p, const SelectiveScanGrads& g) {
  if (takes_reference(p)) return reference::selective_scan_backward(p, g);
  check(p, g);
  if (p.x.size[3] == 0) return;
  const int64_t slice = backward_slice(p);
  const SelectiveScanTask task(p, slice, (p.x.size[3] + slice - 1) / slice);
  const auto slices = static_cast<int64_t>(task.slices.size()), units = static_cast<int64_t>(task.units.size());
  std::optional<UnitStates> starts, ends;
  if (task.chunked) {
    starts.emplace(unit_starts(task));
    ends.emplace(unit_end_gradients(task, g, *starts));
  }
  BackwardSums sums(task, g);
  for_each_item(
      slices * sums.parts(), scan_backward_scratch_bytes(task), 3 * scan_work(task), [&](int64_t item, void* scratch) {
        const int64_t part = item / slices, slice = item % slices;
        for (int64_t unit = part * units / sums.parts(); unit < (part + 1) * units / sums.parts(); ++unit) {
          const ScanEnds at{starts ? starts->at(unit, slice) : nullptr, ends ? ends->at(unit, slice) : nullptr,
                            nullptr};
          run_scan_unit_backward(task, g, task.slices[slice], task.units[unit], at, sums.of(part, slice), scratch);
        }
      });
  sums.write();
}

}  // namespace heed::kernels
