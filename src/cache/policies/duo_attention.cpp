// DuoAttention (arXiv 2410.10819), as deployed: streaming heads keep sinks and a recent window, the others everything.
#include "cache/head_sets.h"
#include "cache/rows.h"
#include "cache/sink_window.h"
#include "heed/error.h"

namespace heed::cache {
namespace {

Policy make_duo(ConfigReader& reader, const ModelShape& shape) {
  const auto file = reader.get<std::string>("heads", "");
  const auto named = reader.get<nlohmann::json>("streaming", nullptr);
  const auto sparsity = reader.get<double>("sparsity", shape.kv_heads == shape.heads ? 0.75 : 0.5);
  const auto seed = reader.integer("seed", 0, 0);
  require(file.empty() == !named.is_null(),
          "{}: heads = FILE or streaming = all, none or [[layer, KV head], ...]: one of the two is needed",
          reader.owner());
  require(sparsity >= 0 && sparsity <= 1, "{}: sparsity = {}: 0 to 1 is accepted", reader.owner(), sparsity);
  SinkWindow::Settings settings{.in_cache = false};
  settings.sinks = reader.integer("sinks", 64, 0);
  settings.window = reader.integer("recent", 256, 1);
  const auto full = ~(file.empty() ? named_heads(reader, "streaming", named, shape)
                                   : smallest_heads(read_head_table(file, shape), sparsity, uint64_t(seed), shape));
  return [settings, full](const LayerContext& layer) {
    auto own = settings;
    own.full = full[size_t(layer.index)];
    return std::make_unique<SinkWindow>(own);
  };
}

}  // namespace

namespace rows {

// A streaming head sees in the prompt what it sees in steps: sinks and its window, not all of its chunk as in the
// paper. That is the mask its gates are trained under, and how the prompt is cut does not matter.
PolicyRow duo_attention() {
  auto row = policy_row(
      "duo_attention", "arXiv 2410.10819", 2024, "full heads: N; streaming heads: sinks + recent",
      {{"heads", "", "file of gates by KV head (or scores by query head, of which the largest counts)"},
       {"sparsity", nullptr,
        "share of KV heads that stream: those with the smallest gates (default: 0.5 of grouped heads, 0.75 of "
        "others)"},
       {"streaming", nullptr, "instead of a file: all, none or [[layer, KV head], ...]"},
       {"sinks", 64, "first tokens that streaming heads keep"},
       {"recent", 256, "recent tokens that they keep, the own one included"},
       {"seed", 0, "of the noise of 1e-6 that decides between equal gates"}},
      make_duo);
  row.at_mean_budget = [](int64_t budget, int64_t prompt, const HeadRanking& ranking) {
    const SplitBudget split(budget, prompt, ranking.size());
    const int64_t sinks = std::min<int64_t>(64, split.others / 4);
    return nlohmann::json{{"streaming", heads_json(ranking, split.full, int64_t(ranking.size()))},
                          {"sinks", sinks},
                          {"recent", split.others - sinks}};
  };
  row.covering = {{"streaming", "all"}, {"recent", 2000}};
  row.tight = {{"streaming", {{0, 0}, {1, 1}}}, {"sinks", 3}, {"recent", 29}};
  row.chunk_invariant = true;
  return row;
}

}  // namespace rows
}  // namespace heed::cache
