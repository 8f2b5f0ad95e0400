#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "heed/bench/benchmark_rows.h"
#include "heed/cache/policy.h"
#include "heed/error.h"
#include "heed/models/model_rows.h"
#include "heed/names.h"
#include "heed/nn/token_reducer.h"
#include "heed/probe/probe_rows.h"
#include "heed/registry.h"
#include "heed/steer/intervention.h"
#include "heed/surgery/conversion_rows.h"
#include "heed/tasks/suite.h"
#include "heed/tasks/task.h"

namespace heed::cli {
namespace {

struct ListOptions {
  Common common;
  std::string name, kind, family, pattern;
};

std::vector<const RegistryRow*> all_rows() {
  std::vector<const RegistryRow*> rows;
  for (const auto& row : operator_rows()) rows.push_back(&row);
  for (const auto& row : mixer_rows()) rows.push_back(&row);
  for (const auto& row : nn::reducer_rows()) rows.push_back(&row);
  for (const auto& row : model_rows()) rows.push_back(&row);
  for (const auto& row : tasks::task_rows()) rows.push_back(&row);
  for (const auto& row : tasks::suite_rows()) rows.push_back(&row);
  for (const auto& row : cache::policy_rows()) rows.push_back(&row);
  for (const auto& row : probe::probe_rows()) rows.push_back(&row);
  for (const auto& row : steer::intervention_rows()) rows.push_back(&row);
  for (const auto& row : surgery::conversion_rows()) rows.push_back(&row);
  for (const auto& row : bench::benchmark_rows()) rows.push_back(&row);
  return rows;
}

bool has_pattern(const RegistryRow& row, const std::string& pattern) {
  const auto patterns = to_json(row)["patterns"];
  return std::find(patterns.begin(), patterns.end(), pattern) != patterns.end();
}

void print_table(const std::vector<const RegistryRow*>& rows) {
  fmt::print("{:<28} {:<10} {:<34} {:<5} {:<5} {:<12} {}\n", "name", "kind", "family", "step", "core", "cost",
             "patterns");
  for (const auto* row : rows) {
    const auto patterns = to_json(*row)["patterns"].get<std::vector<std::string>>();
    fmt::print("{:<28} {:<10} {:<34} {:<5} {:<5} {:<12} {}\n", row->name, to_string(row->kind), row->family,
               row->step ? "yes" : "-", row->core ? "yes" : "-", row->cost, fmt::join(patterns, " "));
  }
}

void print_one(const RegistryRow& row) {
  fmt::print("{} ({}, {})\n  {}, {}\n  cost {}{}{}{}\n", row.name, to_string(row.kind), row.family, row.paper, row.year,
             row.cost, row.step ? ", step" : "", row.core ? ", core" : "", row.training_free ? ", training-free" : "");
  if (!row.parameters.empty()) fmt::print("  parameters:\n");
  for (const auto& p : row.parameters) fmt::print("    {:<20} {:<16} {}\n", p.name, p.fallback.dump(), p.meaning);
}

void run(const ListOptions& options) {
  std::vector<const RegistryRow*> rows;
  std::vector<std::string> names;
  for (const auto* row : all_rows()) {
    names.push_back(row->name);
    if (!options.name.empty() && row->name != options.name) continue;
    if (!options.kind.empty() && to_string(row->kind) != options.kind) continue;
    if (!options.family.empty() && row->family != options.family) continue;
    if (!options.pattern.empty() && !has_pattern(*row, options.pattern)) continue;
    rows.push_back(row);
  }
  require(options.name.empty() || !rows.empty(), "unknown name {}: {}", options.name, suggest(options.name, names));
  auto json = nlohmann::json::array();
  for (const auto* row : rows) json.push_back(to_json(*row));
  if (write_json(options.common, json.dump(1))) return;
  if (!options.name.empty())
    print_one(*rows.front());
  else
    print_table(rows);
}

}  // namespace

void add_list(CLI::App& app) {
  auto options = std::make_shared<ListOptions>();
  auto* command = app.add_subcommand(
      "list", "the registry: every mechanism with what it claims\nexample: heed list --family exact_and_systems");
  command->add_option("name", options->name, "print this one with its parameters");
  command->add_option("--kind", options->kind, "only this kind (mixer, operator, ...)");
  command->add_option("--family", options->family, "only this family");
  command->add_option("--pattern", options->pattern,
                      "only what supports it: noncausal_self, causal_self, noncausal_cross, causal_cross");
  add_json(*command, options->common);
  command->callback([options] { run(*options); });
}

}  // namespace heed::cli
