#include "checkpoint/within_files.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "heed/error.h"

namespace heed::checkpoint {
namespace {

/// A module is made in float32 and may hold a second copy while it is drawn or converted to float64.
constexpr double kCopies = 4, kFloatBytes = 4;
/// Tables that no file holds.
constexpr double kSlack = double(int64_t{256} << 20);

/// libtorch tells its profiler of every tensor's memory, before anything is written to it; this listens in the
/// profiler's place, and passes on what it hears.
class AllocationLimit final : public c10::MemoryReportingInfoBase {
 public:
  AllocationLimit(double most, std::string place)
      : most_(most),
        place_(std::move(place)),
        before_(dynamic_cast<c10::MemoryReportingInfoBase*>(
            c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE))) {}

  // The types of the totals differ between versions of libtorch; the one that matches overrides.
  void reportMemoryUsage(void* place, int64_t bytes, int64_t allocated, int64_t reserved, c10::Device device) {
    if (before_) before_->reportMemoryUsage(place, bytes, allocated, reserved, device);
    hear(bytes);
  }
  void reportMemoryUsage(void* place, int64_t bytes, size_t allocated, size_t reserved, c10::Device device) {
    if (before_) before_->reportMemoryUsage(place, bytes, allocated, reserved, device);
    hear(bytes);
  }
  bool memoryProfilingEnabled() const override { return true; }

 private:
  void hear(int64_t bytes) {
    held_ += double(bytes);
    // Memory is given back from destructors, which must not throw.
    require(
        bytes <= 0 || held_ <= most_,
        "{}: the configuration describes a model that takes {:.0f} MB or more: for tensors like those of the files, "
        "at most {:.0f} MB are accepted",
        place_, held_ * 1e-6, most_ * 1e-6);
  }

  double most_, held_ = 0;
  std::string place_;
  c10::MemoryReportingInfoBase* before_;
};

}  // namespace

void within_files(const TensorSource& source, const std::function<void()>& make) {
  const double most = kCopies * kFloatBytes * held_numbers(source) + kSlack;
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE,
                                  std::make_shared<AllocationLimit>(most, source.place()));
  std::string reason;
  try {
    return make();
  } catch (const c10::Error& error) {
    reason = error.what_without_backtrace();
    reason.resize(std::min(reason.find('\n'), reason.size()));
    if (reason.find("allocate") != reason.npos) reason = "the memory does not suffice";
  } catch (const std::bad_alloc&) {
    reason = "the memory does not suffice";
  } catch (const std::length_error&) {
    reason = "the memory does not suffice";
  }
  fail("{}: the model that the configuration describes cannot be made: {}", source.place(), reason);
}

}  // namespace heed::checkpoint
