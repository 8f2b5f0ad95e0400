// What this machine can do, measured: the limits that speeds are stated against.
#pragma once

namespace heed::kernels {

/// Peak float32 multiply-add rate of `threads` threads with the instruction set in use, in 1e9 operations a second
/// (a multiply-add is two): independent accumulators in registers, the median of 21 runs of about 5 ms. What the clock
/// sustains, that is, as kernels of longer runs must; bursts are 2 to 6 % above it. About 0.15 s.
double measure_peak_gflops(int threads);

/// Updates of states of a selective scan, in 1e9 a second, that `threads` threads make of values in registers: for each
/// an exponential, two products and two multiply-adds. About 0.15 s.
double measure_state_updates(int threads);

/// Rate at which `threads` threads read a buffer of 256 MiB once, in 1e9 bytes a second: best of several passes. About
/// 0.3 s.
double measure_read_gbps(int threads);

}  // namespace heed::kernels
