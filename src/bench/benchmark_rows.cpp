// One row a protocol. Adding one: its file, its test, its row here.
#include "heed/bench/benchmark_rows.h"

namespace heed::bench {
namespace {

RegistryRow efficiency_report() {
  RegistryRow row;
  row.name = "efficiency_report";
  row.kind = Kind::benchmark;
  row.family = "kv_cache_and_long_context";
  row.paper = "heed compare --policies: time, memory, reads, fidelity and answers of cache policies by one protocol";
  row.year = 2026;
  row.patterns.causal_self = true;
  row.step = true;
  row.training_free = true;
  row.parameters = {{"budgets", {0.0625, 0.125, 0.25, 0.5}, "shares of the prompt"},
                    {"prompt", 1024, "tokens of the prompt"},
                    {"steps", 256, "tokens fed one at a time after it"},
                    {"task", "niah_single", "a text task"},
                    {"samples", 20, "of the task"}};
  return row;
}

}  // namespace

std::span<const RegistryRow> benchmark_rows() {
  static const std::vector<RegistryRow> rows = {efficiency_report()};
  return rows;
}

}  // namespace heed::bench
