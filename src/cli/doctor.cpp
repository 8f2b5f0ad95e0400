#include <ATen/Config.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "heed/kernels/limits.h"
#include "heed/kernels/runtime.h"
#include "heed/registry.h"
#include "heed/version.h"

namespace heed::cli {
namespace {

/// The field `name` of the first processor, or "unknown".
std::string cpu_field(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name))
      if (const auto colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "unknown";
}

/// The BLAS library mapped into this process: Debian's default one is tens of times slower than OpenBLAS.
std::string blas_library() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    for (const char* part : {"openblas", "libmkl_rt", "libblis", "libblas"})
      if (const auto slash = line.find('/'); slash != std::string::npos && line.find(part, slash) != std::string::npos)
        return line.substr(slash);
  return "none found";
}

void run(const Common& common) {
  apply(common);
  const int threads = kernels::num_threads();
  nlohmann::ordered_json report{{"heed", version()},
                                {"commit", commit()},
                                {"cpu", cpu_field("model name")},
                                {"isa", kernels::current_isa()},
                                {"isas", kernels::supported_isas()},
                                {"threads", threads},
                                {"torch_threads", at::get_num_threads()},
                                {"libtorch", TORCH_VERSION},
                                {"blas", blas_library()},
                                {"mkldnn", at::hasMKLDNN()},
                                {"backend", kernels::use_reference() ? "reference" : "cpu"},
                                {"mechanisms", mixer_rows().size() + operator_rows().size()},
                                {"peak_gflops", kernels::measure_peak_gflops(threads)},
                                {"read_gbps", kernels::measure_read_gbps(threads)}};
  if (write_json(common, report.dump(1))) return;
  for (const auto& [key, value] : report.items())
    fmt::print("{:<14} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  if (blas_library().find("openblas") == std::string::npos && blas_library().find("mkl") == std::string::npos)
    fmt::print("advice         install libopenblas0-openmp: the BLAS in use is far slower\n");
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto common = std::make_shared<Common>();
  auto* command = app.add_subcommand(
      "doctor",
      "what a bug report needs: version, processor, threads, libraries, measured limits\nexample: heed doctor --json");
  add_threads(*command, *common);
  add_json(*command, *common);
  command->callback([common] { run(*common); });
}

}  // namespace heed::cli
