// Long sequences of few heads, cut into segments: each is walked from a state of zero, then the states are carried from
// one to the next (a2, S2) after (a1, S1) = (a2 a1, diag(a2) S1 + S2).
#pragma once

#include <vector>

#include "kernels/cpu/chunk_task.h"
#include "kernels/scan_units.h"

namespace heed::kernels {

/// States of all heads at every segment, or their gradients.
class SegmentStates {
 public:
  SegmentStates(const LinearTask& task, size_t segments);

  AnyView view() { return view_; }
  float* at(int64_t segment, int64_t head) {
    return states_.data() + segment * view_.stride[0] + head * view_.stride[1];
  }

 private:
  std::vector<float> states_;
  AnyView view_;
};

class LinearSegments {
 public:
  LinearSegments(const LinearTask& task, const std::vector<ScanUnit>& units);

  /// Before every segment. `valid` becomes false where a log decay is above 0.
  SegmentStates starts(bool& valid);
  /// Gradients of the states after every segment; needs starts() before it.
  SegmentStates end_gradients(const LinearChunkGrads& grads);

 private:
  const LinearTask& task_;
  const std::vector<ScanUnit>& units_;
  std::vector<float> kept_;  ///< [segments][heads][d]: of a state over a segment
};

/// Copies the states of the sequences' first or last segments to `to`, unless that is absent.
void write_bounds(const std::vector<ScanUnit>& units, bool ScanUnit::*bound, const AnyView& states, const AnyView& to);

}  // namespace heed::kernels
