#include "heed/threads.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"

namespace heed {

void set_num_threads(int threads) {
  require(threads >= 1, "threads = {}: 1 or more is accepted", threads);
  kernels::set_num_threads(threads);
  omp_set_num_threads(threads);
  at::set_num_threads(threads);
}

void init_threads() { set_num_threads(kernels::num_threads()); }

}  // namespace heed
