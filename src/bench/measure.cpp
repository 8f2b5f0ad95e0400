#include "heed/bench/measure.h"

#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "heed/kernels/limits.h"
#include "heed/kernels/runtime.h"
#include "heed/version.h"

namespace heed::bench {
namespace {

/// What follows the colon of the first line of `file` that begins with `key`.
std::string field(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key)) continue;
    const auto value = line.find_first_not_of(" \t", line.find(':') + 1);
    if (value != std::string::npos) return line.substr(value);
  }
  return {};
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void refuse_above_limit(const std::string& what, double rate, double limit, const std::string& unit) {
  if (rate <= limit) return;
  throw Refused(fmt::format("{}: {:.1f} {} is above the measured limit of {:.1f} {}: the figure is refused", what, rate,
                            unit, limit, unit));
}

int64_t available_bytes() {
  const std::string text = field("/proc/meminfo", "MemAvailable");
  return text.empty() ? 0 : std::strtoll(text.c_str(), nullptr, 10) * 1024;
}

nlohmann::ordered_json machine_json(double peak_gflops, double read_gbps) {
  const std::string cpu = field("/proc/cpuinfo", "model name");
  return {{"isa", kernels::current_isa()},
          {"threads", kernels::num_threads()},
          {"peak_gflops", peak_gflops},
          {"read_gbps", read_gbps},
          {"commit", commit()},
          {"version", version()},
          {"cpu", cpu.empty() ? "unknown" : cpu},
          {"libtorch", TORCH_VERSION}};
}

nlohmann::ordered_json measured_machine_json() {
  const int threads = kernels::num_threads();
  return machine_json(kernels::measure_peak_gflops(threads), kernels::measure_read_gbps(threads));
}

std::string machine_line(const nlohmann::ordered_json& machine) {
  return fmt::format("{}, {} thread{}, peak {:.0f} GFLOP/s, reads {:.1f} GB/s, heed {} ({}), {}",
                     machine["isa"].get<std::string>(), machine["threads"].get<int>(),
                     machine["threads"].get<int>() == 1 ? "" : "s", machine["peak_gflops"].get<double>(),
                     machine["read_gbps"].get<double>(), machine["version"].get<std::string>(),
                     machine["commit"].get<std::string>(), machine["cpu"].get<std::string>());
}

}  // namespace heed::bench
