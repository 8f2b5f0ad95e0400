// One row a probe. Adding one: its file, its test, its row here.
#include "heed/probe/probe_rows.h"

namespace heed::probe {
namespace {

RegistryRow retrieval_head() {
  RegistryRow row;
  row.name = "retrieval_head";
  row.kind = Kind::probe;
  row.family = "kv_cache_and_long_context";
  row.paper = "Retrieval Head Mechanistically Explains Long-Context Factuality";
  row.year = 2024;
  row.patterns.causal_self = true;
  row.step = true;
  row.training_free = true;
  row.cost = "prompts N^2";
  row.parameters = {{"task", "niah_single", "a needle task; heed probe heads --task"},
                    {"samples", 40, "prompts"},
                    {"threshold", 0.1, "a retrieval head scores above it"}};
  return row;
}

}  // namespace

std::span<const RegistryRow> probe_rows() {
  static const std::vector<RegistryRow> rows = {retrieval_head()};
  return rows;
}

}  // namespace heed::probe
