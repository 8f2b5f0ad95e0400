#include "kernels/selective_scan_units.h"

#include "kernels/cpu/parallel.h"

namespace heed::kernels {

double scan_work(const SelectiveScanTask& task) {
  constexpr double kOfState = 12;  // an exponential is most of it
  const auto& x = task.p.x.size;
  return kOfState * static_cast<double>(x[0] * x[2] * x[3]) * static_cast<double>(task.width);
}

UnitStates unit_starts(const SelectiveScanTask& task) {
  const auto slices = static_cast<int64_t>(task.slices.size()), units = static_cast<int64_t>(task.units.size());
  UnitStates starts(task), local(task);
  for_each_item(slices * units, scan_scratch_bytes(task), scan_work(task), [&](int64_t item, void* scratch) {
    const int64_t unit = item / slices, slice = item % slices;
    const ScanEnds ends{nullptr, local.at(unit, slice), starts.steps(unit, slice)};
    run_scan_unit(task, task.slices[slice], task.units[unit], ends, false, scratch);
  });
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int64_t slice = 0; slice < slices; ++slice) {
      if (task.units[unit].first) {
        load_states(task, task.slices[slice], task.p.initial_state, task.units[unit].sequence, starts.at(unit, slice));
      } else {
        join_states(task, task.slices[slice], starts.at(unit - 1, slice), starts.steps(unit - 1, slice),
                    local.at(unit - 1, slice), false, starts.at(unit, slice));
      }
    }
  }
  return starts;
}

UnitStates unit_end_gradients(const SelectiveScanTask& task, const SelectiveScanGrads& grads, UnitStates& starts) {
  const auto slices = static_cast<int64_t>(task.slices.size()), units = static_cast<int64_t>(task.units.size());
  UnitStates ends(task), local(task);
  for_each_item(slices * units, scan_backward_scratch_bytes(task), scan_work(task), [&](int64_t item, void* scratch) {
    const int64_t unit = item / slices, slice = item % slices;
    const ScanEnds end{nullptr, local.at(unit, slice), nullptr};
    run_scan_unit_adjoint(task, grads, task.slices[slice], task.units[unit], end, scratch);
  });
  for (int64_t unit = units - 1; unit >= 0; --unit) {
    for (int64_t slice = 0; slice < slices; ++slice) {
      if (task.units[unit].last) {
        load_states(task, task.slices[slice], grads.d_final_state, task.units[unit].sequence, ends.at(unit, slice));
      } else {
        join_states(task, task.slices[slice], ends.at(unit + 1, slice), starts.steps(unit + 1, slice),
                    local.at(unit + 1, slice), true, ends.at(unit, slice));
      }
    }
  }
  return ends;
}

}  // namespace heed::kernels
