// One row a probe. Adding one: its file, its test, its row here.
#include "heed/probe/probe_rows.h"

#include "heed/probe/sinks.h"

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

RegistryRow secondary_sinks() {
  const SinkOptions defaults;
  auto row = retrieval_head();
  row.name = "secondary_sinks";
  row.paper = "arXiv 2512.22213";
  row.year = 2025;
  row.step = false;
  row.cost = "one forward";
  row.parameters = {{"cosine", defaults.cosine, "with the first token's state, of a sink; heed probe sinks --cosine"},
                    {"primary", defaults.primary, "share of the first token's lifetime from which it is primary-like"},
                    {"secondary", defaults.secondary, "and from which it is secondary"},
                    {"threshold", defaults.threshold, "mean weight of a later sink"}};
  return row;
}

RegistryRow efficient_probing() {
  RegistryRow row;
  row.name = "efficient_probing";
  row.kind = Kind::probe;
  row.family = "sparse_and_vision";
  row.paper = "Attention, Please! Revisiting Attentive Probing for Masked Image Modeling (arXiv 2506.10178)";
  row.year = 2025;
  row.patterns.noncausal_cross = true;
  row.cost = "O(M N C)";
  row.parameters = {{"queries", 16, "M, each with its own part of the values; heed probe features --queries"},
                    {"shrink", 1, "values have 1 / shrink of the channels"}};
  return row;
}

}  // namespace

std::span<const RegistryRow> probe_rows() {
  static const std::vector<RegistryRow> rows = {retrieval_head(), secondary_sinks(), efficient_probing()};
  return rows;
}

}  // namespace heed::probe
