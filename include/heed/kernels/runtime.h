// What the kernels run on: threads and instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace heed::kernels {

/// The number of threads heed uses. Default: HEED_THREADS, else every core this process may run on.
/// Kernels always pass it to OpenMP explicitly: a library loaded beside heed can have cut OpenMP's own default.
int num_threads();
void set_num_threads(int threads);

/// Instruction sets this binary holds and this machine runs, best first: "avx512", "avx2", "sse4", "neon", "scalar".
std::vector<std::string> supported_isas();
/// The one in use: the best of supported_isas(), or what HEED_ISA or set_isa caps it to.
std::string current_isa();
/// Caps the instruction set; throws heed::Error for a name that is not supported here. Empty: back to the best.
void set_isa(const std::string& name);

/// True when HEED_BACKEND=reference, or set: every kernel runs its double-precision twin.
bool use_reference();
void set_use_reference(bool on);

/// Hears of every block of scratch that a kernel takes (its bytes, positive) and gives back (negative), on the thread
/// that does. One listener for the process; null: none. Returns the one before.
using ScratchObserver = void (*)(int64_t bytes);
ScratchObserver set_scratch_observer(ScratchObserver observer);
void report_scratch(int64_t bytes);

}  // namespace heed::kernels
