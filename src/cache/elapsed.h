// Wall-clock time of what a session does.
#pragma once

#include <chrono>

namespace heed::cache {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace heed::cache
