// PyramidKV (arXiv 2406.02069): SnapKV whose budgets shrink from layer to layer.
#include "cache/policies/pyramid_kv.h"

#include "cache/observed_prompt.h"
#include "cache/rows.h"

namespace heed::cache {

int64_t pyramid_budget(int64_t capacity, int64_t window, int64_t beta, int64_t layer, int64_t layers, int64_t prompt) {
  const int64_t average = capacity - window;
  // Short prompts: as SnapKV.
  if (prompt < 2 * average || layers == 1) return average;
  int64_t least = average / beta, most = 2 * average - least;
  if (most >= prompt - window) most = prompt - window, least = 2 * average - most;
  return most - layer * ((most - least) / (layers - 1));
}

namespace rows {

PolicyRow pyramid_kv() {
  auto parameters = ObservationSettings::parameters();
  parameters.push_back({"beta", 20, "how steep: the last layer keeps about 1 / beta of the mean; 1: all the same"});
  auto row = policy_row("pyramid_kv", "arXiv 2406.02069", 2024, "layers * capacity + generated", parameters,
                        [](ConfigReader& reader, const ModelShape&) -> Policy {
                          const auto s = ObservationSettings::read(reader);
                          const int64_t beta = reader.integer("beta", 20, 1, 1 << 20);
                          return [s, beta](const LayerContext& layer) {
                            return std::make_unique<ObservedPrompt>(s, [s, beta, layer](int64_t prompt) {
                              return pyramid_budget(s.capacity, s.window, beta, layer.index, layer.count, prompt);
                            });
                          };
                        });
  row.tight = {{"window", 8}, {"capacity", 40}, {"beta", 4}};
  row.chunk_invariant = true;
  row.at_budget = observation_at_budget;
  return row;
}

}  // namespace rows
}  // namespace heed::cache
