// Sums of gradients in double.
#pragma once

#include <vector>

#include "kernels/reference/element.h"

namespace heed::kernels::reference {

/// Sums in double for a tensor whose own dtype may be small.
class Accumulator {
 public:
  explicit Accumulator(const AnyView& view) : view_(view) {
    if (view_) values_.resize(view.size[0] * view.size[1] * view.size[2] * view.size[3]);
  }
  void add(int64_t b, int64_t h, int64_t n, int64_t d, double value) {
    if (view_) values_[place(b, h, n, d)] += value;
  }
  void write() const {
    if (!view_) return;
    for (int64_t b = 0; b < view_.size[0]; ++b) {
      for (int64_t h = 0; h < view_.size[1]; ++h) {
        for (int64_t n = 0; n < view_.size[2]; ++n) {
          for (int64_t d = 0; d < view_.size[3]; ++d) store_element(view_, b, h, n, d, values_[place(b, h, n, d)]);
        }
      }
    }
  }

 private:
  int64_t place(int64_t b, int64_t h, int64_t n, int64_t d) const {
    const auto at = [this](int axis, int64_t index) { return view_.size[axis] == 1 ? 0 : index; };
    return ((at(0, b) * view_.size[1] + at(1, h)) * view_.size[2] + at(2, n)) * view_.size[3] + at(3, d);
  }
  AnyView view_;
  std::vector<double> values_;
};

}  // namespace heed::kernels::reference
