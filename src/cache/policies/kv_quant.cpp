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
  row.variants = [](int64_t) {
    std::vector<nlohmann::json> formats;
    for (const auto& name : nn::KvFormat::names())
      if (name != "exact") formats.push_back({{"kv", name}});
    return formats;
  };
  row.covering = {{"kv_recent", 2000}};
  row.tight = {{"kv_recent", 20}};
  return row;
}

}  // namespace heed::cache::rows
