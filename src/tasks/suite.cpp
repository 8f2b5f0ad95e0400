#include "heed/tasks/suite.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/names.h"
#include "heed/tasks/task.h"

namespace heed::tasks {
namespace {

RegistryRow row(const char* name, const char* paper) {
  RegistryRow row;
  row.name = name;
  row.kind = Kind::benchmark;
  row.family = "kv_cache_and_long_context";
  row.paper = paper;
  row.year = 2024;
  row.training_free = true;
  return row;
}

Suite ruler() {
  Suite suite{row("niah_ruler", "RULER: What's the Real Context Size of Your Long-Context Language Models?"), {}};
  for (const char* task :
       {"niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
        "niah_multivalue", "niah_multiquery", "passkey", "kv_lookup", "vt", "cwe", "fwe"})
    suite.members.push_back({task, task, nlohmann::json::object()});
  return suite;
}

Suite threading() {
  return {row("needle_threading", "Needle Threading: Can LLMs Follow Threads through Near-Million-Scale Haystacks?"),
          {{"single", "threading_single", nlohmann::json::object()},
           {"multi", "threading_multi", {{"placement", "random"}}},
           {"multi, clustered", "threading_multi", {{"placement", "clustered"}}},
           {"conditional", "threading_conditional", {{"placement", "random"}}},
           {"conditional, clustered", "threading_conditional", {{"placement", "clustered"}}},
           {"thread, forward", "threading_thread", {{"direction", "forward"}}},
           {"thread, backward", "threading_thread", {{"direction", "backward"}}},
           {"thread, random", "threading_thread", {{"direction", "random"}}},
           {"multi-thread", "threading_multi_thread", nlohmann::json::object()},
           {"branched", "threading_branched", nlohmann::json::object()}}};
}

const std::vector<Suite>& suites() {
  static const std::vector<Suite> all = {ruler(), threading()};
  return all;
}

bool has_parameter(const std::string& task, const std::string& name) {
  const auto rows = task_rows();
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const RegistryRow& r) { return r.name == task; });
  return std::any_of(found->parameters.begin(), found->parameters.end(),
                     [&](const Parameter& p) { return p.name == name; });
}

}  // namespace

const Suite& suite(std::string_view name) {
  std::vector<std::string> known;
  for (const auto& suite : suites()) {
    if (suite.row.name == name) return suite;
    known.push_back(suite.row.name);
  }
  fail("unknown suite '{}': {}", name, suggest(name, known));
}

std::vector<nlohmann::json> settings_of(const Suite& suite, const nlohmann::json& settings) {
  std::vector<nlohmann::json> all;
  for (const auto& member : suite.members) all.push_back(member.parameters);
  for (const auto& [key, value] : settings.items()) {
    bool known = false;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!has_parameter(suite.members[i].task, key)) continue;
      all[i][key] = value;
      known = true;
    }
    require(known, "suite {}: no task of it has a parameter {}", suite.row.name, key);
  }
  return all;
}

std::span<const RegistryRow> suite_rows() {
  static const std::vector<RegistryRow> rows = [] {
    std::vector<RegistryRow> result;
    for (const auto& suite : suites()) result.push_back(suite.row);
    return result;
  }();
  return rows;
}

}  // namespace heed::tasks
