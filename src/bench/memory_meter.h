// How much memory libtorch's tensors and the kernels' scratch take at most while this object lives.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstdint>

#include "heed/kernels/runtime.h"

namespace heed::bench {

/// Counts what this thread's libtorch calls and all kernels allocate from its construction on, less what they free of
/// it. One at a time in a process; throws std::logic_error for a second.
class MemoryMeter {
 public:
  MemoryMeter();
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;

  /// Most bytes held at once so far.
  int64_t peak() const;
  /// Bytes held now.
  int64_t held() const;

 private:
  c10::DebugInfoGuard guard_;
  kernels::ScratchObserver before_;
};

}  // namespace heed::bench
