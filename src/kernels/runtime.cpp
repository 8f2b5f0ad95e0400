#include "heed/kernels/runtime.h"

#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/cpu/targets.h"

#include <hwy/highway.h>

#include "heed/error.h"

namespace heed::kernels {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

int available_cores() {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : static_cast<int>(cores);
}

int default_threads() {
  const std::string text = environment("HEED_THREADS");
  if (text.empty()) return available_cores();
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  require(*end == '\0' && value >= 1 && value <= 4096, "HEED_THREADS is '{}'; a number from 1 to 4096 is accepted",
          text);
  return static_cast<int>(value);
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{default_threads()};
  return count;
}

bool default_backend() {
  const std::string text = environment("HEED_BACKEND");
  require(text.empty() || text == "cpu" || text == "reference", "HEED_BACKEND is '{}'; accepted: cpu, reference", text);
  return text == "reference";
}

std::atomic<bool>& reference_flag() {
  static std::atomic<bool> flag{default_backend()};
  return flag;
}

std::atomic<ScratchObserver> scratch_observer{nullptr};

struct Isa {
  const char* name;
  int64_t targets;
};
// Best first. Highway numbers better targets lower.
constexpr Isa kIsas[] = {{"avx512", HWY_AVX3},
                         {"avx2", HWY_AVX2},
                         {"sse4", HWY_SSE4},
                         {"neon", HWY_NEON},
                         {"scalar", HWY_EMU128 | HWY_SCALAR}};

// What the machine runs when nothing is capped; asked once, because a cap changes Highway's answer.
int64_t machine_targets() {
  static const int64_t targets = [] {
    hwy::SetSupportedTargetsForTest(0);
    return hwy::SupportedTargets() & HWY_TARGETS;
  }();
  return targets;
}

std::mutex isa_mutex;

void cap_isa(const std::string& name, const char* where) {
  const int64_t machine = machine_targets();
  int64_t allowed = 0;
  for (const Isa& isa : kIsas) {
    const bool below = allowed != 0 || name.empty() || name == isa.name;
    if (below && (machine & isa.targets) != 0) allowed |= machine & isa.targets;
    if (name == isa.name && allowed == 0) break;
  }
  if (allowed == 0) {
    std::string accepted;
    for (const std::string& isa : supported_isas()) accepted += (accepted.empty() ? "" : ", ") + isa;
    fail("{} '{}' is no instruction set of this machine and build; accepted: {}", where, name, accepted);
  }
  const std::lock_guard lock(isa_mutex);
  hwy::SetSupportedTargetsForTest(name.empty() ? 0 : allowed);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace

int num_threads() { return thread_count().load(std::memory_order_relaxed); }

void set_num_threads(int threads) {
  require(threads >= 1 && threads <= 4096, "the number of threads is {}; 1 to 4096 is accepted", threads);
  thread_count().store(threads, std::memory_order_relaxed);
}

void apply_isa_cap() {
  static const bool applied = [] {
    cap_isa(environment("HEED_ISA"), "HEED_ISA");
    return true;
  }();
  static_cast<void>(applied);
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if ((machine_targets() & isa.targets) != 0) names.emplace_back(isa.name);
  }
  return names;
}

std::string current_isa() {
  apply_isa_cap();
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  for (const Isa& isa : kIsas) {
    if ((targets & isa.targets) != 0) return isa.name;
  }
  return "scalar";
}

void set_isa(const std::string& name) {
  apply_isa_cap();
  cap_isa(name, "instruction set");
}

bool use_reference() { return reference_flag().load(std::memory_order_relaxed); }
void set_use_reference(bool on) { reference_flag().store(on, std::memory_order_relaxed); }

ScratchObserver set_scratch_observer(ScratchObserver observer) { return scratch_observer.exchange(observer); }
void report_scratch(int64_t bytes) {
  if (const ScratchObserver observer = scratch_observer.load(std::memory_order_relaxed)) observer(bytes);
}

}  // namespace heed::kernels
