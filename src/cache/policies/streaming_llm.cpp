// StreamingLLM (arXiv 2309.17453): the first tokens and a recent window.
#include "cache/rows.h"
#include "cache/sink_window.h"

namespace heed::cache::rows {

PolicyRow streaming_llm() {
  auto row =
      policy_row("streaming_llm", "arXiv 2309.17453", 2023, "sinks + window",
                 {{"sinks", 4, "first tokens that are kept"},
                  {"window", 1024, "recent tokens that are kept, the own one included"},
                  {"positions", "in_cache", "in_cache: a token's rank in the cache; absolute: its place in the text"}},
                 [](ConfigReader& reader, const ModelShape&) -> Policy {
                   SinkWindow::Settings settings;
                   settings.sinks = reader.integer("sinks", settings.sinks, 0);
                   settings.window = reader.integer("window", settings.window, 1);
                   settings.in_cache = reader.choice("positions", "in_cache", {"in_cache", "absolute"}) == "in_cache";
                   return [settings](const LayerContext&) { return std::make_unique<SinkWindow>(settings); };
                 });
  row.covering = {{"window", 2000}};
  row.tight = {{"sinks", 3}, {"window", 29}};
  row.chunk_invariant = true;
  row.at_budget = [](int64_t budget) {
    return nlohmann::json{{"sinks", std::min<int64_t>(4, budget - 1)}, {"window", std::max<int64_t>(1, budget - 4)}};
  };
  return row;
}

}  // namespace heed::cache::rows
