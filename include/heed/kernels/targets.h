// The instruction sets heed is compiled for. Include before any Highway header, in every file that foreach_target
// re-includes, so that all dispatch tables agree.
#pragma once

// x86: AVX-512, AVX2, SSE4 and the baseline; ARM: NEON. The others repeat one of these at the price of build time.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif

#include <hwy/detect_targets.h>

namespace heed::kernels {
/// Applies HEED_ISA the first time; every dispatch goes through it.
void apply_isa_cap();
}  // namespace heed::kernels

/// The function for the instruction set in use: HEED_DISPATCH(Name)(arguments).
#define HEED_DISPATCH(name) (::heed::kernels::apply_isa_cap(), HWY_DYNAMIC_DISPATCH(name))
