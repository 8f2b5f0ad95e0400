// The tensors of a scan's benchmark case, its call, and its check against the double reference.
#pragma once

#include "bench/kernel_buffer.h"
#include "heed/bench/kernel_case.h"
#include "heed/kernels/selective_scan.h"
#include "heed/kernels/softmax_scan.h"

namespace heed::bench {

class ScanProblem {
 public:
  explicit ScanProblem(const KernelCase& c);

  void run();
  /// Runs the call and compares channels or heads that the reference does in about `work` state updates.
  CheckResult check(double work);

  kernels::SelectiveScanParams selective() const;
  kernels::SoftmaxScanParams softmax() const;

 private:
  kernels::SelectiveScanGrads selective_grads() const;
  kernels::SoftmaxScanGrads softmax_grads() const;
  CheckResult check_selective(double work);
  CheckResult check_softmax(double work);

  KernelCase case_;
  Buffer x_, delta_, a_, b_, c_, out_, state_, d_out_, d_x_, d_delta_, d_a_, d_b_, d_c_;
  Buffer scores_, v_, lse_, d_scores_, d_v_;
};

}  // namespace heed::bench
