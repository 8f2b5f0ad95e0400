// One number of threads for the kernels, OpenMP and libtorch.
#pragma once

namespace heed {

/// Sets the number for everything in this process. Default: HEED_THREADS, else every core. Throws heed::Error below 1.
void set_num_threads(int threads);
/// Applies the default; commands and bindings call it once at start.
void init_threads();

}  // namespace heed
