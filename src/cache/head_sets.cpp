#include "cache/head_sets.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/tasks/random.h"

namespace heed::cache {

HeadSet no_heads(const ModelShape& shape) {
  return HeadSet(size_t(shape.layers), std::vector<bool>(size_t(shape.kv_heads)));
}

HeadSet operator~(HeadSet heads) {
  for (auto& layer : heads) layer.flip();
  return heads;
}

HeadSet named_heads(const ConfigReader& reader, const std::string& key, const nlohmann::json& value,
                    const ModelShape& shape) {
  auto heads = no_heads(shape);
  if (value == "none") return heads;
  if (value == "all") return ~std::move(heads);
  const auto inside = [](const nlohmann::json& index, int64_t count) {
    return index.is_number_integer() && index >= 0 && index < count;
  };
  const auto refuse = [&](const nlohmann::json& what) {
    fail("{}: {} = {}: all, none or a list of pairs [layer below {}, KV head below {}] is accepted", reader.owner(),
         key, formats::quote(what.dump()), shape.layers, shape.kv_heads);
  };
  if (!value.is_array()) refuse(value);
  for (const auto& pair : value) {
    if (!pair.is_array() || pair.size() != 2 || !inside(pair[0], shape.layers) || !inside(pair[1], shape.kv_heads))
      refuse(pair);
    heads[pair[0].get<size_t>()][pair[1].get<size_t>()] = true;
  }
  return heads;
}

checkpoint::HeadTable read_head_table(const std::string& path, const ModelShape& shape) {
  auto table = checkpoint::HeadTable::load(path);
  table.check_fits(shape.layers, shape.heads, shape.kv_heads);
  require(!table.holds_rules(), "{}: rules of heads; a table of numbers is accepted", path);
  return table;
}

HeadSet largest_heads(const checkpoint::HeadTable& table, int64_t count, const ModelShape& shape) {
  std::vector<int64_t> order(size_t(table.layers() * table.heads()));
  std::iota(order.begin(), order.end(), 0);
  const auto number = [&](int64_t i) { return table.number(i / table.heads(), i % table.heads()); };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return number(a) > number(b); });
  order.resize(std::min<size_t>(order.size(), size_t(count)));
  const int64_t group = table.heads() / shape.kv_heads;
  auto heads = no_heads(shape);
  for (const int64_t i : order) heads[i / table.heads()][i % table.heads() / group] = true;
  return heads;
}

HeadSet smallest_heads(const checkpoint::HeadTable& table, double share, uint64_t seed, const ModelShape& shape) {
  const auto numbers = table.per_kv_head(shape.kv_heads);
  tasks::Random noise(tasks::hash64("duo_attention"), seed);
  std::vector<std::pair<double, std::pair<size_t, size_t>>> ranked;
  for (size_t l = 0; l < numbers.size(); ++l)
    for (size_t h = 0; h < numbers[l].size(); ++h) ranked.push_back({numbers[l][h] + 1e-6 * noise.uniform(), {l, h}});
  std::sort(ranked.begin(), ranked.end());
  ranked.resize(size_t(std::llround(share * double(ranked.size()))));
  auto heads = no_heads(shape);
  for (const auto& [number, head] : ranked) heads[head.first][head.second] = true;
  return heads;
}

HeadRanking rank_heads(const checkpoint::HeadTable& table, const ModelShape& shape) {
  table.check_fits(shape.layers, shape.heads, shape.kv_heads);
  const auto numbers = table.per_kv_head(shape.kv_heads);
  HeadRanking ranking;
  for (int64_t l = 0; l < shape.layers; ++l)
    for (int64_t h = 0; h < shape.kv_heads; ++h) ranking.emplace_back(l, h);
  const auto number = [&](const auto& head) { return numbers[size_t(head.first)][size_t(head.second)]; };
  std::stable_sort(ranking.begin(), ranking.end(), [&](auto& a, auto& b) { return number(a) > number(b); });
  return ranking;
}

SplitBudget::SplitBudget(int64_t budget, int64_t prompt, size_t heads) {
  others = std::max<int64_t>(2, budget / 4);
  if (prompt <= others) return;
  const double share = double(budget - others) / double(prompt - others);
  full = std::clamp<int64_t>(std::llround(share * double(heads)), 0, int64_t(heads));
}

nlohmann::json heads_json(const HeadRanking& ranking, int64_t begin, int64_t end) {
  auto list = nlohmann::json::array();
  for (int64_t i = begin; i < end; ++i) list.push_back({ranking[size_t(i)].first, ranking[size_t(i)].second});
  return list;
}

}  // namespace heed::cache
