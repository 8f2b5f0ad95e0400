// Everything is kept and read: what the other policies are measured against.
#include "cache/rows.h"

namespace heed::cache::rows {

PolicyRow full() {
  auto row = policy_row("full", "the exact cache", 2017, "N", {}, [](ConfigReader&, const ModelShape&) -> Policy {
    return [](const LayerContext&) { return std::make_unique<LayerCache>(); };
  });
  row.chunk_invariant = true;
  return row;
}

}  // namespace heed::cache::rows
