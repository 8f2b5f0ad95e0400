// Everything is kept and read, in few bits: KIVI (arXiv 2402.02750) and what it is compared with. Any other policy
// takes the same storage by its setting `kv`.
#include "cache/rows.h"

namespace heed::cache::rows {

PolicyRow kv_quant() {
  auto row = policy_row("kv_quant", "arXiv 2402.02750", 2024, "N of 2, 4 or 8 bits",
                        {{"kv", "kivi2", "exact, int8, int4, kivi2 or kivi2_token: how keys and values are stored"},
                         {"kv_recent", nn::KvFormat::kRecent, "newest tokens that kivi2 and kivi2_token leave exact"}},
                        [](ConfigReader&, const ModelShape&) -> Policy {
                          return [](const LayerContext&) { return std::make_unique<LayerCache>(); };
                        });
  row.storage = "kivi2";
  // The finest storage that takes about as many bytes as the budget does in float32.
  row.at_mean_budget = [](int64_t budget, int64_t prompt, const HeadRanking&) {
    const double bits = 32 * double(budget) / double(prompt);
    return nlohmann::json{{"kv", bits >= 9 ? "int8" : bits >= 5 ? "int4" : "kivi2"}};
  };
  row.covering = {{"kv_recent", 2000}};
  row.tight = {{"kv_recent", 20}};
  return row;
}

}  // namespace heed::cache::rows
