#include "heed/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace heed {
namespace {

constexpr int kWidth = 24;

std::string duration(double seconds) {
  const auto s = int64_t(seconds);
  if (s >= 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return s >= 60 ? fmt::format("{}m{:02}s", s / 60, s % 60) : fmt::format("{}s", s);
}

}  // namespace

Progress::Progress(std::string label, int64_t total, int64_t done)
    : label_(std::move(label)),
      total_(std::max<int64_t>(total, 1)),
      first_(done),
      terminal_(isatty(STDERR_FILENO)),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::update(int64_t done, const std::string& note) {
  if (!terminal_) return;
  const auto now = Clock::now();
  const std::chrono::duration<double> total_time = now - start_, since = now - last_;
  if (total_time.count() < 2 || since.count() < 0.1) return;
  last_ = now;
  drawn_ = true;
  const double share = std::clamp(double(done) / double(total_), 0.0, 1.0);
  const int filled = int(share * kWidth);
  const double rate = double(done - first_) / total_time.count();
  const auto left = rate > 0 ? duration(double(total_ - done) / rate) : std::string("?");
  const auto line = fmt::format("\r\033[K{} [{}{}] {}/{}  {}  {} left", label_, std::string(filled, '='),
                                std::string(kWidth - filled, ' '), done, total_, note, left);
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace heed
