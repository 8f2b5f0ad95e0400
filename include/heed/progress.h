// One line on stderr for anything that takes more than two seconds, and only where a person watches.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace heed {

/// Shows `label [=====>   ] done/total  note  ETA` while alive. Silent when stderr is no terminal, and for the first
/// two seconds.
class Progress {
 public:
  Progress(std::string label, int64_t total, int64_t done = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total`; `note` is shown behind it. Cheap: draws at most ten times a second.
  void update(int64_t done, const std::string& note = "");

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  int64_t total_, first_;
  bool terminal_, drawn_ = false;
  Clock::time_point start_, last_;
};

}  // namespace heed
