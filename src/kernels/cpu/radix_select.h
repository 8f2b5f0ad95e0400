// Selection of the largest entries of a row without a sort: histograms over the digits of their order.
#pragma once

#include "kernels/cpu/scratch.h"
#include "kernels/cpu/select_scan.h"
#include "kernels/select_problem.h"

namespace heed::kernels {

/// For rows of at most `size` entries.
struct RadixScratch {
  RadixScratch(void* memory, int64_t size) {
    Arena arena(memory);
    take(arena, size);
  }
  static int64_t bytes(int64_t size) {
    Arena arena;
    RadixScratch(nullptr, 0).take(arena, size);
    return arena.used();
  }

  static constexpr int kDigits = 3;
  static constexpr int kShift[kDigits] = {21, 10, 0};
  static constexpr uint32_t kMask[kDigits] = {2047, 2047, 1023};

  uint32_t *order = nullptr, *rest = nullptr;  ///< of all entries; of those that are still to be told apart
  int32_t* list = nullptr;                     ///< of what is taken
  int64_t* count = nullptr;                    ///< [2048]
  double* mass = nullptr;                      ///< [2048]

 private:
  void take(Arena& arena, int64_t size) {
    order = arena.take<uint32_t>(size);
    rest = arena.take<uint32_t>(size + kScanPadding);
    list = arena.take<int32_t>(size + kScanPadding);
    count = arena.take<int64_t>(2048);
    mass = arena.take<double>(2048);
  }
};

/// scratch.list = the forced entries and the `free` largest of the others, ascending. Returns how many.
int64_t list_largest(const float* row, int64_t length, const Forced& forced, int64_t free, const RadixScratch& scratch);

/// How many of the largest entries between the forced ones bring the weight of all to `share` (below 1) of the row's.
int64_t count_mass(const float* row, int64_t length, const Forced& forced, double share, const RadixScratch& scratch);

}  // namespace heed::kernels
