// Everything is kept and read: what the other policies are measured against.
#include "cache/rows.h"

namespace heed::cache::rows {

PolicyRow full() {
  return policy_row("full", "the exact cache", 2017, "N", {}, [](ConfigReader&, const ModelShape&) -> Policy {
    return [](const LayerContext&) { return std::make_unique<LayerCache>(); };
  });
}

}  // namespace heed::cache::rows
