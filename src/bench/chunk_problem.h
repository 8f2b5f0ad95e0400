// The tensors of a benchmark case of linear_chunk or delta_chunk, its call, and its check against the double reference.
#pragma once

#include "bench/kernel_buffer.h"
#include "heed/bench/kernel_case.h"
#include "heed/kernels/delta_chunk.h"

namespace heed::bench {

class ChunkProblem {
 public:
  explicit ChunkProblem(const KernelCase& c);

  void run();
  /// Runs the call and compares as many tokens of the first head as the reference does in about `work` products.
  CheckResult check(double work);

 private:
  template <class Params>
  Params params() const;
  template <class Grads>
  Grads grads() const;
  template <class Params, class Grads>
  CheckResult check_as(double work);
  bool is_backward() const {
    return case_.call == KernelCase::Call::linear_chunk_backward ||
           case_.call == KernelCase::Call::delta_chunk_backward;
  }
  bool has_coefficients() const { return case_.decay == KernelCase::kCoefficients; }
  bool is_delta() const {
    return case_.call == KernelCase::Call::delta_chunk || case_.call == KernelCase::Call::delta_chunk_backward;
  }

  KernelCase case_;
  Buffer q_, k_, v_, beta_, log_decay_, out_, state_;
  Buffer pairs_, reads_, writes_, carries_;
  Buffer d_out_, d_q_, d_k_, d_v_, d_beta_, d_log_decay_;
};

}  // namespace heed::bench
