// heed bench selection: what choosing keys costs and gains.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/commands.h"
#include "heed/bench/measure.h"
#include "heed/bench/selection_bench.h"
#include "heed/progress.h"

namespace heed::cli {
namespace {

struct SelectionOptions {
  Common common;
  bool quick = false;
};

/// A mechanism with a core, and what its time may grow like.
struct Searcher {
  const char* name;
  nlohmann::json config;
};

void print(const nlohmann::ordered_json& report) {
  fmt::print("{}\n\none head of 64; block lists chosen in every call, by the products of block means\n",
             bench::machine_line(report["machine"]));
  for (const auto& r : report["dynamic"])
    fmt::print(
        "  N = {:>6}  density {:.4f}  select {:>8.2f} ms  attend {:>8.2f} ms  dense {:>9.2f} ms  {:>5.2f}x: {:.2f} of "
        "what less work promises\n",
        r["N"].get<int64_t>(), r["density"].get<double>(), r["select_ms"].get<double>(), r["attend_ms"].get<double>(),
        r["dense_ms"].get<double>(), r["speed_up"].get<double>(), r["efficiency"].get<double>());
  fmt::print("\ntime by length, one head of 64: the exponent of N\n");
  for (const auto& r : report["growth"]) {
    fmt::print("  {:<24} N^{:.2f} ", r["mixer"].get<std::string>(), r["exponent"].get<double>());
    for (size_t i = 0; i < r["lengths"].size(); ++i)
      fmt::print("  {}: {:.1f} ms", r["lengths"][i].get<int64_t>(), r["ms"][i].get<double>());
    fmt::print("\n");
  }
}

void run_selection(const SelectionOptions& o) {
  apply(o.common);
  using Lengths = std::vector<int64_t>;
  const Lengths dynamic = o.quick ? Lengths{1024} : Lengths{8192, 32768},
                lengths = o.quick ? Lengths{512, 1024} : Lengths{4096, 8192, 16384, 32768, 65536};
  const std::vector<Searcher> searchers{{"hip_attention", nlohmann::json::object()},
                                        {"superlinear_attention", nlohmann::json::object()},
                                        {"hyper_attention", {{"causal", false}, {"exact_length", 0}}}};
  const int rounds = o.quick ? 1 : 3;
  Progress progress("bench selection", static_cast<int64_t>(dynamic.size() + searchers.size()));
  int64_t done = 0;
  auto selections = nlohmann::ordered_json::array(), growth = nlohmann::ordered_json::array();
  for (const int64_t length : dynamic) {
    progress.update(done++, fmt::format("block lists at N = {}", length));
    selections.push_back(bench::to_json(bench::measure_dynamic_selection(length, 64, 1.0 / 16, rounds)));
  }
  for (const auto& searcher : searchers) {
    progress.update(done++, searcher.name);
    growth.push_back(bench::to_json(bench::measure_growth(searcher.name, searcher.config, lengths, rounds)));
  }
  const nlohmann::ordered_json report{
      {"machine", bench::measured_machine_json()}, {"dynamic", selections}, {"growth", growth}};
  if (!write_json(o.common, report.dump(1))) print(report);
}

}  // namespace

void add_bench_selection(CLI::App& bench) {
  auto* command = bench.add_subcommand(
      "selection",
      "block lists that change every call beside dense attention, and how the time of mechanisms that search for keys "
      "grows with the length\n"
      "example: heed bench selection --json=selection.json");
  auto o = std::make_shared<SelectionOptions>();
  command->add_flag("--quick", o->quick, "short lengths");
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run_selection(*o); });
}

}  // namespace heed::cli
