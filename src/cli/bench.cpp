#include <fmt/format.h>

#include "bench/units.h"
#include "cli/commands.h"
#include "heed/bench/kernel_bench.h"
#include "heed/bench/measure.h"
#include "heed/error.h"
#include "heed/progress.h"

namespace heed::cli {
namespace {

struct BenchOptions {
  Common common;
  std::string filter;
  bool quick = false;
};

std::vector<bench::KernelCase> chosen_cases(const BenchOptions& options) {
  std::vector<bench::KernelCase> chosen;
  for (const auto& c : bench::kernel_cases(options.quick))
    if (c.matches(options.filter)) chosen.push_back(c);
  require(!chosen.empty(),
          "--filter '{}' fits no case; words of a row are accepted, as in --filter 'flash backward D=64'",
          options.filter);
  return chosen;
}

const bench::KernelCase* find_partner(const std::vector<bench::KernelCase>& all, const bench::KernelCase& c) {
  for (const auto& other : all)
    if (!c.partner.empty() && other.id() == c.partner) return &other;
  return nullptr;
}

void print_kernels(const nlohmann::ordered_json& report) {
  fmt::print("{}\n\n", bench::machine_line(report["machine"]));
  fmt::print("{:<14} {:<21} {:<9} {:>3} {:>4} {:>6} {:>6} {:>4} {:>10} {:>9} {:>16} {:>6} {:>10}\n", "kernel", "case",
             "dtype", "Hq", "Hkv", "N", "M", "D", "time", "rate", "limit", "share", "extra");
  for (const auto& r : report["results"]) {
    fmt::print("{:<14} {:<21} {:<9} {:>3} {:>4} {:>6} {:>6} {:>4} {:>7.2f} ms {:>9.1f} {:>9.1f} {:<6} {:>5.1f}% {:>10}",
               r["kernel"].get<std::string>(), r["case"].get<std::string>(), r["dtype"].get<std::string>(),
               r["Hq"].get<int64_t>(), r["Hkv"].get<int64_t>(), r["N"].get<int64_t>(), r["M"].get<int64_t>(),
               r["D"].get<int64_t>(), r["time_ms"].get<double>(), r["rate"].get<double>(), r["limit"].get<double>(),
               r["limit_unit"].get<std::string>(), 100 * r["share"].get<double>(), bench::bytes_text(r["extra_bytes"]));
    if (r.contains("tile_share"))
      fmt::print("  {:.1f}% of the bound of its tiles", 100 * r["tile_share"].get<double>());
    if (r.contains("ratio"))
      fmt::print("  {:.2f}x the {} of {}", r["ratio"].get<double>(), r["ratio_of"].get<std::string>(),
                 r["ratio_to"].get<std::string>());
    if (r.contains("efficiency"))
      fmt::print(": {:.2f} of the speed-up that less work promises", r["efficiency"].get<double>());
    fmt::print("\n");
  }
  if (report["memory"].empty()) return;
  fmt::print("\nextra memory of flash forward, one head of 64, beside q, k, v and the outputs\n");
  for (const auto& m : report["memory"])
    fmt::print("  N = {:>6}  formula {:>10}  allocated {:>10}\n", m["N"].get<int64_t>(),
               bench::bytes_text(m["formula_bytes"]), bench::bytes_text(m["measured_bytes"]));
}

void run_kernels(const BenchOptions& options) {
  apply(options.common);
  const auto all = bench::kernel_cases(options.quick), cases = chosen_cases(options);
  const std::vector<int64_t> lengths =
      options.quick ? std::vector<int64_t>{512, 1024, 2048} : std::vector<int64_t>{4096, 8192, 16384, 32768, 65536};
  const bool with_memory = options.filter.empty();
  Progress progress("bench kernels", int64_t(cases.size() + (with_memory ? lengths.size() : 0)));
  auto results = nlohmann::ordered_json::array(), memory = nlohmann::ordered_json::array();
  std::vector<std::string> refused;
  std::vector<double> peaks, reads;
  int64_t done = 0;
  for (const auto& c : cases) {
    progress.update(done++, c.id());
    try {
      const auto result = bench::measure_kernel(c, find_partner(all, c));
      results.push_back(bench::to_json(result));
      peaks.push_back(result.peak_gflops);
      reads.push_back(result.read_gbps);
    } catch (const bench::Refused& reason) {
      refused.push_back(reason.what());
    }
  }
  for (const auto length : with_memory ? lengths : std::vector<int64_t>{}) {
    progress.update(done++, fmt::format("memory at N = {}", length));
    const auto m = bench::measure_memory(length);
    memory.push_back({{"N", m.length}, {"formula_bytes", m.formula_bytes}, {"measured_bytes", m.measured_bytes}});
  }
  const nlohmann::ordered_json report{{"machine", bench::machine_json(bench::median(peaks), bench::median(reads))},
                                      {"results", results},
                                      {"memory", memory},
                                      {"refused", refused}};
  if (!write_json(options.common, report.dump(1))) print_kernels(report);
  if (!refused.empty())
    throw bench::Refused(
        fmt::format("{} of {} cases refused; the first: {}", refused.size(), cases.size(), refused[0]));
}

void print_peers(const nlohmann::ordered_json& report) {
  fmt::print("{}, libtorch {}\n\n", bench::machine_line(report["machine"]),
             report["machine"]["libtorch"].get<std::string>());
  fmt::print("{:<14} {:<21} {:<9} {:>3} {:>4} {:>6} {:>6} {:>4}  {:<38} {:>12} {:>12} {:>8}\n", "kernel", "case",
             "dtype", "Hq", "Hkv", "N", "M", "D", "peer", "peer", "heed", "ratio");
  for (const auto& r : report["results"]) {
    fmt::print("{:<14} {:<21} {:<9} {:>3} {:>4} {:>6} {:>6} {:>4}  {:<38} ", r["kernel"].get<std::string>(),
               r["case"].get<std::string>(), r["dtype"].get<std::string>(), r["Hq"].get<int64_t>(),
               r["Hkv"].get<int64_t>(), r["N"].get<int64_t>(), r["M"].get<int64_t>(), r["D"].get<int64_t>(),
               r["peer"].get<std::string>());
    if (r.contains("skipped"))
      fmt::print("skipped: {}\n", r["skipped"].get<std::string>());
    else
      fmt::print("{:>9.2f} ms {:>9.2f} ms {:>7.2f}x\n", r["peer_ms"].get<double>(), r["heed_ms"].get<double>(),
                 r["ratio"].get<double>());
  }
}

void run_peers(const BenchOptions& options) {
  apply(options.common);
  const auto cases = chosen_cases(options);
  Progress progress("bench peers", int64_t(cases.size()));
  auto results = nlohmann::ordered_json::array();
  int64_t done = 0;
  for (const auto& c : cases) {
    progress.update(done++, c.id());
    for (const auto& result : bench::measure_peers(c)) results.push_back(bench::to_json(result));
  }
  const nlohmann::ordered_json report{{"machine", bench::measured_machine_json()}, {"results", results}};
  if (!write_json(options.common, report.dump(1))) print_peers(report);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto* command = app.add_subcommand("bench", "measure the kernels: against this machine's limits, against libtorch");
  command->require_subcommand(1);
  auto options = std::make_shared<BenchOptions>();
  const auto add = [&](const char* name, const char* text, void (*run)(const BenchOptions&)) {
    auto* sub = command->add_subcommand(name, text);
    sub->add_option("--filter", options->filter,
                    "only cases whose row holds these words, as 'decode float16' or 'flash D=128'");
    sub->add_flag("--quick", options->quick, "a few small cases");
    add_threads(*sub, options->common);
    add_json(*sub, options->common);
    sub->callback([options, run] { run(*options); });
  };
  add("kernels",
      "each kernel as a share of the peak rate or read bandwidth measured beside it, after a check against the double "
      "reference\n"
      "example: heed bench kernels --filter 'causal forward' --json=kernels.json",
      run_kernels);
  add("peers", "the same cases through libtorch, in turn with heed\nexample: heed bench peers --filter 'flash float32'",
      run_peers);
  add_bench_simulate(*command);
  add_bench_selection(*command);
}

}  // namespace heed::cli
