// Gradients of tensors whose heads several heads share: one for each head while items write, then their sums.
#pragma once

#include <vector>

#include "kernels/cpu/chunk_task.h"
#include "kernels/cpu/scratch.h"

namespace heed::kernels {

class SharedGradients {
 public:
  explicit SharedGradients(int64_t heads) : heads_(heads) {}

  /// Where `gradient` has fewer heads, replaces it by one of all heads in float32, until reduce().
  void widen(AnyView& gradient);
  /// Writes the sums over neighbours, in the order of heads.
  void reduce() const;

 private:
  struct Shared {
    AnyView target, wide;
    Block memory;
  };
  int64_t heads_;
  std::vector<Shared> shared_;
};

bool all_valid(const std::vector<ItemGradients>& results);

/// gradient [1, Hg, 1, 1] = the sums of d_constant over sequences and neighbours; results are ordered [sequence][head].
void write_constants(const std::vector<ItemGradients>& results, int64_t heads, const AnyView& gradient);

}  // namespace heed::kernels
