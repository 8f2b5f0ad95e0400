#include "bench/memory_meter.h"

#include <atomic>
#include <stdexcept>

namespace heed::bench {
namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> live{0}, most{0};

void hear(int64_t bytes) {
  const int64_t now = live += bytes;
  int64_t seen = most;
  while (now > seen && !most.compare_exchange_weak(seen, now)) {
  }
}

/// libtorch tells its profiler of every tensor's memory; this listens in the profiler's place.
struct Listener final : c10::MemoryReportingInfoBase {
  // The types of the totals differ between versions of libtorch; the one that matches overrides.
  void reportMemoryUsage(void*, int64_t bytes, int64_t, int64_t, c10::Device) { hear(bytes); }
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) { hear(bytes); }
  bool memoryProfilingEnabled() const override { return true; }
};

std::shared_ptr<Listener> start() {
  if (counting.exchange(true)) throw std::logic_error("memory is being measured already");
  live = most = 0;
  return std::make_shared<Listener>();
}

}  // namespace

MemoryMeter::MemoryMeter()
    : guard_(c10::DebugInfoKind::PROFILER_STATE, start()), before_(kernels::set_scratch_observer(hear)) {}

MemoryMeter::~MemoryMeter() {
  kernels::set_scratch_observer(before_);
  counting = false;
}

int64_t MemoryMeter::peak() const { return most; }
int64_t MemoryMeter::held() const { return live; }

}  // namespace heed::bench
