// Buffers of benchmark cases, and how results in them are compared.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "heed/kernels/view.h"

namespace heed::bench {

/// Elements of any type on whole cache lines.
class Buffer {
 public:
  Buffer() = default;
  Buffer(kernels::DType dtype, const std::array<int64_t, 4>& size);

  const kernels::AnyView& view() const { return view_; }
  int64_t count() const { return view_.size[0] * view_.size[1] * view_.size[2] * view_.size[3]; }
  /// Standard normal numbers (int8: uniform), a function of `seed`.
  void randomize(uint64_t seed);
  void zero();

 private:
  struct Free {
    void operator()(void* block) const { std::free(block); }
  };
  std::unique_ptr<void, Free> data_;
  kernels::AnyView view_;
};

/// How far a kernel's results lie from the reference's, as relative L2 error, and what is allowed.
struct CheckResult {
  double error = 0, tolerance = 0;
  bool passed() const { return error <= tolerance; }
};

/// A double copy; with `rows`, of those rows alone.
Buffer in_double(const kernels::AnyView& from, const std::vector<int64_t>* rows = nullptr);

/// Of two buffers of doubles; NaN where either holds one.
double relative_error(const Buffer& got, const Buffer& want);

}  // namespace heed::bench
