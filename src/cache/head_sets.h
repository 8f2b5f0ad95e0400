// Which KV heads of a model a head-wise policy treats in one way: from its settings or from a file.
#pragma once

#include <vector>

#include "heed/cache/policy.h"
#include "heed/checkpoint/head_table.h"

namespace heed::cache {

using HeadSet = std::vector<std::vector<bool>>;  ///< [layer][KV head]

HeadSet no_heads(const ModelShape& shape);
HeadSet operator~(HeadSet heads);

/// A setting "all", "none" or a list of [layer, KV head] pairs. `value` must not be null.
HeadSet named_heads(const ConfigReader& reader, const std::string& key, const nlohmann::json& value,
                    const ModelShape& shape);

/// The table of numbers in a file, which fits the model.
checkpoint::HeadTable read_head_table(const std::string& path, const ModelShape& shape);

/// KV heads that have a head among the `count` largest numbers of a table; ties to the lower layer, then head.
HeadSet largest_heads(const checkpoint::HeadTable& table, int64_t count, const ModelShape& shape);

/// The `share` of KV heads with the smallest numbers; between equal ones noise of 1e-6 decides.
HeadSet smallest_heads(const checkpoint::HeadTable& table, double share, uint64_t seed, const ModelShape& shape);

/// How many heads of a ranking keep a prompt whole, and how many tokens the others keep, for `budget` tokens on
/// average: a quarter of it for those.
struct SplitBudget {
  int64_t full = 0, others = 0;
  SplitBudget(int64_t budget, int64_t prompt, size_t heads);
};
/// Heads [begin, end) of a ranking as named_heads reads them.
nlohmann::json heads_json(const HeadRanking& ranking, int64_t begin, int64_t end);

}  // namespace heed::cache
