// SnapKV (arXiv 2404.14469): the prompt shrinks once, by the attention of its last queries.
#include "cache/observed_prompt.h"
#include "cache/rows.h"

namespace heed::cache::rows {

PolicyRow snap_kv() {
  auto row = policy_row("snap_kv", "arXiv 2404.14469", 2024, "capacity + generated", ObservationSettings::parameters(),
                        [](ConfigReader& reader, const ModelShape&) -> Policy {
                          const auto settings = ObservationSettings::read(reader);
                          return [settings](const LayerContext&) {
                            const int64_t kept = settings.capacity - settings.window;
                            return std::make_unique<ObservedPrompt>(settings, [kept](int64_t) { return kept; });
                          };
                        });
  row.tight = {{"window", 8}, {"capacity", 40}};
  row.chunk_invariant = true;
  row.at_budget = observation_at_budget;
  return row;
}

}  // namespace heed::cache::rows
