// A selective scan cut into pieces that threads take: slices of channels, units of tokens.
#pragma once

#include <vector>

#include "heed/kernels/selective_scan.h"
#include "kernels/scan_units.h"

namespace heed::kernels {

/// Consecutive channels that read the same groups of B and C.
struct ChannelSlice {
  int64_t begin, end, b_group, c_group;
  int64_t count() const { return end - begin; }
};

struct SelectiveScanTask {
  /// Slices of `slice_channels`, a multiple of 16 and at most kMostSliceChannels, or of what is left of a group.
  /// Sequences are cut into chunks where so many `pieces` of each are too few, which decides the last bits of a result;
  /// the slices do not.
  SelectiveScanTask(const SelectiveScanParams& params, int64_t slice_channels, int64_t pieces);

  const SelectiveScanParams& p;
  int64_t width;  ///< floats of a channel's state
  std::vector<ChannelSlice> slices;
  std::vector<ScanUnit> units;
  int64_t slice_width;  ///< largest number of channels of a slice, in whole vectors of any instruction set
  bool chunked;         ///< some sequence is more than one unit

  /// Floats of the states of one slice as scratch holds them: [width][slice_width].
  int64_t state_floats() const { return width * slice_width; }
};

/// Largest slice_width.
constexpr int64_t kMostSliceChannels = 1024;

/// Tokens that are worked on between looks at memory.
constexpr int64_t kScanBlock = 32;

/// Where a slice of a unit starts or ends, [width][slice_width]; null: where the call says, or nowhere.
struct ScanEnds {
  const float* from = nullptr;
  float* to = nullptr;
  float* steps = nullptr;  ///< [slice_width]: sum of Delta over the unit
};

/// One unit of one slice. Without `outputs` only its ends are wanted.
void run_scan_unit(const SelectiveScanTask& task, const ChannelSlice& slice, const ScanUnit& unit, const ScanEnds& ends,
                   bool outputs, void* scratch);
int64_t scan_scratch_bytes(const SelectiveScanTask& task);

/// to = exp(A steps) from + local, or with the conjugate decay: a unit's end from its start and its scan from zero.
void join_states(const SelectiveScanTask& task, const ChannelSlice& slice, const float* from, const float* steps,
                 const float* local, bool conjugate, float* to);

/// State of a slice out of a view [S, 1, D, width] (absent: zero), and into one.
void load_states(const SelectiveScanTask& task, const ChannelSlice& slice, const AnyView& view, int64_t sequence,
                 float* to);
void store_states(const SelectiveScanTask& task, const ChannelSlice& slice, const float* from, const AnyView& view,
                  int64_t sequence);

/// Sums of a part of the units that are added up afterwards, in a fixed order.
struct ScanSums {
  float* d_a = nullptr;         ///< [width][slice_width], added to
  float* d_channels = nullptr;  ///< [2][slice_width], added to: of skip and of delta_bias
  float* d_b = nullptr;         ///< [B T][width] of this slice, written
  float* d_c = nullptr;
};

/// The gradients of one unit of one slice. `ends.from` is the state before it, `ends.to` holds the gradient of the
/// state after it and becomes that of the state before it (both null: where the call says).
void run_scan_unit_backward(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
                            const ScanUnit& unit, const ScanEnds& ends, const ScanSums& sums, void* scratch);
/// `ends.to`: the gradient of the state before the unit from its own outputs alone.
void run_scan_unit_adjoint(const SelectiveScanTask& task, const SelectiveScanGrads& grads, const ChannelSlice& slice,
                           const ScanUnit& unit, const ScanEnds& ends, void* scratch);
int64_t scan_backward_scratch_bytes(const SelectiveScanTask& task);

/// Token t of a group in the gradient of B or C: rows [slices] apart by `slice_floats`, summed in order.
/// `scratch` holds one row.
void sum_slices(const float* rows, int64_t slice_floats, int64_t slices, const AnyView& to, int64_t b, int64_t group,
                int64_t t, float* scratch);

}  // namespace heed::kernels
