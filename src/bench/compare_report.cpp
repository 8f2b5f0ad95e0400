// A comparison as JSON and as the table of a terminal.
#include <fmt/format.h>

#include "bench/units.h"
#include "heed/bench/compare.h"
#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

nlohmann::ordered_json or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

nlohmann::ordered_json row_json(const CompareRow& r) {
  nlohmann::ordered_json row{{"name", r.name},     {"family", r.family},
                             {"N", r.length},      {"queries", r.one_query ? 1 : r.length},
                             {"causal", r.causal}, {"training_free", r.training_free},
                             {"exact", r.exact},   {"timing_only", r.timing_only}};
  if (!r.skipped.empty()) {
    row["skipped"] = r.skipped;
    return row;
  }
  row["time_ms"] = r.time_ms;
  row["gflops"] = or_null(r.gflops);
  row["extra_bytes"] = r.extra_bytes;
  row["error"] = or_null(r.error);
  row["mass"] = or_null(r.mass);
  row["layers"] = nlohmann::ordered_json::array();
  for (const auto& f : r.layers)
    row["layers"].push_back({{"layer", f.layer}, {"error", f.error}, {"mass", or_null(f.mass)}});
  return row;
}

std::string table_row(const CompareRow& r) {
  if (!r.skipped.empty()) return fmt::format("  {:<28} skipped: {}\n", r.name, r.skipped);
  const std::string error = r.timing_only ? "timing only" : r.error ? error_text(*r.error) : "";
  const std::string notes = std::string(r.exact           ? "exact"
                                        : r.training_free ? "training-free"
                                                          : "needs training") +
                            (r.causal ? "" : ", not causal") + (r.one_query ? ", one query" : "");
  return fmt::format("  {:<28} {:>10} {:>9} {:>11} {:>12} {:>9}  {}\n", r.name, time_text(r.time_ms * 1e-3),
                     r.gflops ? fmt::format("{:.1f}", *r.gflops) : "", bytes_text(r.extra_bytes), error,
                     r.mass ? mass_text(*r.mass) : "", notes);
}

}  // namespace

nlohmann::ordered_json to_json(const Comparison& c) {
  auto results = nlohmann::ordered_json::array();
  for (const auto& row : c.rows) results.push_back(row_json(row));
  return {
      {"machine", c.machine}, {"source", c.source}, {"lengths", c.lengths}, {"results", results}, {"failed", c.failed}};
}

std::string source_line(const nlohmann::ordered_json& source) {
  std::string line;
  if (source.contains("model")) {
    std::string layers;
    for (const auto& layer : source["layers"]) layers += (layers.empty() ? "" : ", ") + layer.dump();
    line = fmt::format("{} reading {}, layers {}; trained on {} tokens", source["model"].get<std::string>(),
                       source["text"].get<std::string>(), layers, source["trained_length"].get<int64_t>());
  } else {
    line = source["qkv"].get<std::string>();
  }
  return line + fmt::format("; {} heads on {} of {}, {}", source["heads"].get<int64_t>(),
                            source["kv_heads"].get<int64_t>(), source["head_dim"].get<int64_t>(),
                            source["dtype"].get<std::string>());
}

std::string compare_table(const Comparison& c) {
  std::string text = source_line(c.source) + "\n" + machine_line(c.machine) + "\n";
  for (const auto length : c.lengths) {
    text += fmt::format("\nN = {}\n  {:<28} {:>10} {:>9} {:>11} {:>12} {:>9}\n", length, "mechanism", "time", "GFLOP/s",
                        "extra", "error", "mass");
    for (const auto& row : c.rows)
      if (row.length == length) text += table_row(row);
  }
  if (c.source.contains("text_tokens") && c.source["text_tokens"].get<int64_t>() < c.lengths.back())
    text += fmt::format("\nThe text has {} tokens and was repeated to reach longer lengths.\n",
                        c.source["text_tokens"].get<int64_t>());
  text +=
      "\ntime: of one layer's core, median. error: relative L2 of the outputs against exact attention in double "
      "(beyond 4096 tokens: of 256 queries).\n"
      "mass: exact weights on the keys that are seen. extra: memory beside q, k, v and the output.\n";
  return text;
}

}  // namespace heed::bench
