// The tensors of one benchmark case, its call, and its check against the double reference.
#pragma once

#include <memory>
#include <vector>

#include "bench/chunk_problem.h"
#include "bench/kernel_buffer.h"
#include "bench/scan_problem.h"
#include "heed/bench/kernel_case.h"
#include "heed/kernels/decode.h"
#include "heed/kernels/page_scores.h"

namespace heed::bench {

class KernelProblem {
 public:
  /// Caches of what reads them are as many as are needed for `rotated_bytes` of keys and values.
  explicit KernelProblem(const KernelCase& c, int64_t rotated_bytes = int64_t{256} << 20);

  /// One call, as it is timed. Calls that read caches take them in turn.
  void run();
  /// Runs the call and compares: every output where that is affordable, else sampled query rows (for gradients of keys
  /// and values: with output gradients on those rows alone).
  /// `work` bounds what the reference computes, in products.
  CheckResult check(double work = 2.5e8);

  const KernelCase& shape() const { return case_; }
  kernels::FlashParams flash() const;
  kernels::FlashGrads grads() const;
  kernels::NeighborhoodParams near() const { return {flash(), *case_.around}; }
  kernels::DecodeParams decode(size_t cache) const;
  kernels::SlotScoresParams scores(size_t cache) const;
  kernels::PageBoundsParams bounds(size_t cache) const;
  size_t caches() const { return caches_.size(); }
  const ScanProblem* scan() const { return scan_.get(); }

 private:
  struct Cache {
    Buffer k, v, scale;  ///< of bounds, k is the extremes of its pages
  };
  CheckResult check_flash(double work);
  void run_backward(const kernels::FlashGrads& g);
  CheckResult check_decode();
  CheckResult check_selection();

  KernelCase case_;
  std::unique_ptr<ScanProblem> scan_;    ///< of scans, which have no other tensors
  std::unique_ptr<ChunkProblem> chunk_;  ///< of linear_chunk and delta_chunk, likewise
  kernels::Mask mask_;
  std::unique_ptr<OwnedBlockList> blocks_;
  Buffer q_, k_, v_, out_, lse_, d_out_, d_q_, d_k_, d_v_, scores_;
  std::vector<Cache> caches_;
  std::vector<int64_t> lengths_;
  size_t turn_ = 0;
};

}  // namespace heed::bench
