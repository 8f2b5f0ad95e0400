// Figures as a person reads them.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace heed::bench {

/// "830 us", "1.24 ms", "3.1 s": three digits.
std::string time_text(double seconds);
/// "512 B", "24 KiB", "1.5 MiB", "2.0 GiB".
std::string bytes_text(int64_t bytes);
/// "0.013", "3e-07".
std::string error_text(double error);
/// "97.3 %".
std::string mass_text(double mass);
/// What a comparison ran on, in one line.
std::string source_line(const nlohmann::ordered_json& source);

}  // namespace heed::bench
