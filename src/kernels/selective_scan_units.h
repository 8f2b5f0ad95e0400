// The ends of chunks: every chunk is scanned from zero, then the states are carried from one to the next.
#pragma once

#include <vector>

#include "kernels/cpu/selective_scan_task.h"

namespace heed::kernels {

/// One block of states, and the sum of Delta, for every unit and slice of a chunked task.
class UnitStates {
 public:
  explicit UnitStates(const SelectiveScanTask& task)
      : slices_(static_cast<int64_t>(task.slices.size())),
        floats_(task.state_floats()),
        width_(task.slice_width),
        states_(task.units.size() * task.slices.size() * floats_),
        steps_(task.units.size() * task.slices.size() * width_) {}

  float* at(int64_t unit, int64_t slice) { return states_.data() + (unit * slices_ + slice) * floats_; }
  float* steps(int64_t unit, int64_t slice) { return steps_.data() + (unit * slices_ + slice) * width_; }

 private:
  int64_t slices_, floats_, width_;
  std::vector<float> states_, steps_;
};

/// Work of one pass over the tokens, in multiply-adds.
double scan_work(const SelectiveScanTask& task);

/// The states before every unit.
UnitStates unit_starts(const SelectiveScanTask& task);
/// The gradients of the states after every unit. `starts` knows the sums of Delta.
UnitStates unit_end_gradients(const SelectiveScanTask& task, const SelectiveScanGrads& grads, UnitStates& starts);

}  // namespace heed::kernels
