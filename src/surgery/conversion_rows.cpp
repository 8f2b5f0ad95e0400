// One row a conversion. Adding one: its file, its test, its row here.
#include "heed/surgery/conversion_rows.h"

#include "heed/surgery/echo_att.h"

namespace heed::surgery {
namespace {

RegistryRow echo_att() {
  const BlockChoice defaults;
  RegistryRow row;
  row.name = "echo_att";
  row.kind = Kind::conversion;
  row.family = "kv_cache_and_long_context";
  row.paper = "EchoAtt: Attend, Copy, then Adjust for More Efficient Large Language Models (arXiv 2409.14595)";
  row.year = 2024;
  row.patterns.causal_self = true;
  row.step = true;
  row.cost = "O(N^2), followers without q and k";
  row.parameters = {{"first", defaults.first, "first layers that are left alone; heed surgery echo_att --first"},
                    {"last", defaults.last, "last layers that are left alone"},
                    {"size", defaults.size, "consecutive layers that share a map"},
                    {"least", defaults.least, "mean similarity of the maps from which they do"}};
  return row;
}

}  // namespace

std::span<const RegistryRow> conversion_rows() {
  static const std::vector<RegistryRow> rows = {echo_att()};
  return rows;
}

}  // namespace heed::surgery
