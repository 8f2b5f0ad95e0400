#include "bench/units.h"

namespace heed::bench {
namespace {

/// Three significant digits without an exponent.
std::string three_digits(double value) {
  return fmt::format("{:.{}f}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

}  // namespace

std::string time_text(double seconds) {
  if (seconds < 999.5e-6) return three_digits(seconds * 1e6) + " us";
  if (seconds < 999.5e-3) return three_digits(seconds * 1e3) + " ms";
  return three_digits(seconds) + " s";
}

std::string bytes_text(int64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1023.5) break;
    value /= 1024;
    unit = next;
  }
  return three_digits(value) + " " + unit;
}

std::string error_text(double error) {
  return error >= 1e-3 ? fmt::format("{:.3f}", error) : fmt::format("{:.1e}", error);
}

std::string mass_text(double mass) { return fmt::format("{:.1f} %", 100 * mass); }

}  // namespace heed::bench
