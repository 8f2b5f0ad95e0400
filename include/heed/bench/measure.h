// Times, limits and memory: what every measurement of heed is made of.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace heed::bench {

/// A measurement that can't be true or can't be trusted. Commands answer it with exit status 1.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Middle value; the mean of the two middle ones of an even number. 0 of none.
double median(std::vector<double> values);

/// Seconds of a steady clock.
double now();

/// Throws Refused when `rate` lies above `limit`: nothing runs faster than the machine, so the clock, the count of work
/// or the result is wrong.
void refuse_above_limit(const std::string& what, double rate, double limit, const std::string& unit);

/// Bytes this process can still allocate without swapping, as the system says; 0 where it does not.
int64_t available_bytes();

/// {"isa","threads","peak_gflops","read_gbps","commit","version","cpu","libtorch"}
nlohmann::ordered_json machine_json(double peak_gflops, double read_gbps);
/// The same with both limits measured now, which takes half a second.
nlohmann::ordered_json measured_machine_json();
/// "avx512, 2 threads, 210 GFLOP/s, 14 GB/s, commit 1a2b3c, Intel ..." for a table's head.
std::string machine_line(const nlohmann::ordered_json& machine);

}  // namespace heed::bench
