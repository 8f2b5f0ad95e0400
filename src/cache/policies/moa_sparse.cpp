// MoA (arXiv 2406.14909), as deployed: each KV head reads the first block and a band of its own width.
#include <numeric>

#include "cache/head_sets.h"
#include "cache/rows.h"
#include "heed/cache/moa_rule.h"
#include "heed/error.h"
#include "heed/nn/block_pattern.h"

namespace heed::cache {
namespace {

using torch::Tensor;

/// Prompt and steps see the same: a query of block i the first block and the last `band` up to i. N of the rules is the
/// text that is expected, or what has come where that is more; a band that grows brings nothing back. Rows hold the
/// first block and, behind it, whole blocks that a later query can still see: a slot's block differs from its token's
/// by those dropped.
class MoaSparse : public LayerCache {
 public:
  MoaSparse(std::vector<MoaRule> heads, int64_t block) : rules_(std::move(heads)), block_(block) {}

 protected:
  // Room would be made for all rows alike.
  int64_t reserved_slots(int64_t) const override { return 0; }

  void store(const Chunk& chunk) override {
    const int64_t length = std::max(expected(), chunk.first + chunk.size());
    bands_.clear();
    for (const auto& rule : rules_) bands_.push_back(rule.band(length, block_));
    dropped_.resize(bands_.size(), 0);
    LayerCache::store(chunk);
    if (!in_prompt() && chunk.size() == 1) drop_hidden_from(chunk.first - forgotten());
  }

  Tensor attend_chunk(const Chunk& chunk) override {
    const int64_t queries = group(chunk);
    auto out = torch::empty({chunk.q.size(0), chunk.q.size(1), chunk.size(), chunk.v.size(3)}, chunk.q.options());
    AttentionOptions options = chunk.call.options;
    options.mask = Causal{};
    for (int64_t r = 0; r < kv_.rows(); ++r) {
      const int64_t b = r / kv_.heads(), h = r % kv_.heads(), band = bands_[size_t(h)];
      const auto part = [&](const Tensor& x) { return x.narrow(0, b, 1).narrow(1, h * queries, queries); };
      const auto rule = [band](const nn::BlockScope&, int64_t, int64_t query_block) {
        std::vector<int32_t> seen{0};
        for (int64_t k = std::max<int64_t>(1, query_block - band + 1); k <= query_block; ++k)
          seen.push_back(static_cast<int32_t>(k));
        return seen;
      };
      part(out).copy_(nn::block_attention(part(chunk.q), kv_.keys(r).unsqueeze(0).unsqueeze(0),
                                          kv_.values(r).unsqueeze(0).unsqueeze(0), options, rule, block_, true));
    }
    if (in_prompt()) count(chunk);
    return out;
  }

  Tensor attend_step(const Chunk& chunk) override { return decode(chunk.q, everything(), decode_options(chunk)).out; }

  void after_chunk(const Chunk&) override { drop_hidden_from(seen() - forgotten()); }

 private:
  /// The first block behind block 0 that a query at `position` sees.
  int64_t first_seen(int64_t position, int64_t band) const {
    return std::max<int64_t>(1, position / block_ - band + 1);
  }

  /// Blocks that neither a query at `position` nor a later one sees.
  void drop_hidden_from(int64_t position) {
    bool drops = false;
    for (size_t h = 0; h < bands_.size(); ++h) drops |= first_seen(position, bands_[h]) - 1 > dropped_[h];
    if (!drops) return;
    std::vector<std::vector<int64_t>> lists;
    for (int64_t r = 0; r < kv_.rows(); ++r) {
      const auto h = size_t(r % kv_.heads());
      const int64_t more = std::max<int64_t>(0, first_seen(position, bands_[h]) - 1 - dropped_[h]);
      const int64_t first = std::min(block_, kv_.length(r));
      auto& list = lists.emplace_back(size_t(kv_.length(r) - more * block_));
      std::iota(list.begin(), list.begin() + first, 0);
      std::iota(list.begin() + first, list.end(), first + more * block_);
    }
    kv_.keep(lists);
    for (size_t h = 0; h < bands_.size(); ++h) dropped_[h] = std::max(dropped_[h], first_seen(position, bands_[h]) - 1);
  }

  void count(const Chunk& chunk) {
    int64_t pairs = 0, visible = 0;
    for (int64_t i = chunk.first; i < chunk.first + chunk.size(); ++i) {
      for (size_t h = 0; h < bands_.size(); ++h)
        pairs += i + 1 - std::max(first_seen(i, bands_[h]) - 1, dropped_[h]) * block_;
      visible += (i + 1) * int64_t(bands_.size());
    }
    const int64_t lists = chunk.q.size(0) * group(chunk);
    count_prompt(pairs * lists, visible * lists);
  }

  std::vector<MoaRule> rules_;  // by KV head
  int64_t block_;
  std::vector<int64_t> bands_, dropped_;  // blocks, by KV head
};

/// Rules [layers][KV heads] from one of the settings heads, rules and rule.
std::vector<std::vector<MoaRule>> read_rules(ConfigReader& reader, const ModelShape& shape) {
  const auto file = reader.get<std::string>("heads", "");
  const auto all = reader.get<nlohmann::json>("rules", nullptr), one = reader.get<nlohmann::json>("rule", nullptr);
  require(!file.empty() + !all.is_null() + !one.is_null() == 1,
          "{}: heads = FILE, rules = [layers][KV heads] of {{\"a\", \"b\"}}, or rule = {{\"a\", \"b\"}} for all heads: "
          "one of the three is needed",
          reader.owner());
  std::vector<std::vector<MoaRule>> rules(size_t(shape.layers), std::vector<MoaRule>(size_t(shape.kv_heads)));
  if (!one.is_null()) {
    const auto rule = MoaRule::from_json(one, reader.owner());
    for (auto& layer : rules) layer.assign(size_t(shape.kv_heads), rule);
    return rules;
  }
  const auto source = file.empty() ? reader.owner() + ": rules" : file;
  const auto table = file.empty()
                         ? checkpoint::HeadTable::parse({{"name", "moa"}, {"heads", "kv"}, {"values", all}}, source)
                         : checkpoint::HeadTable::load(file);
  require(table.axis() == checkpoint::HeadTable::Axis::kv && table.holds_rules(),
          "{}: a table of rules by KV head is accepted", source);
  table.check_fits(shape.layers, shape.heads, shape.kv_heads);
  for (int64_t l = 0; l < shape.layers; ++l)
    for (int64_t h = 0; h < shape.kv_heads; ++h)
      rules[size_t(l)][size_t(h)] = MoaRule::from_json(table.at(l, h), source);
  return rules;
}

}  // namespace

namespace rows {

PolicyRow moa_sparse() {
  auto row = policy_row("moa_sparse", "arXiv 2406.14909", 2024, "by head: a block + a + b N",
                        {{"heads", "", "file of rules by KV head (heed probe moa --save-heads)"},
                         {"rules", nullptr, "instead of a file: [layers][KV heads] of {\"a\", \"b\"}"},
                         {"rule", nullptr, "instead of both: one {\"a\", \"b\"} for all heads"},
                         {"block", MoaRule::kBlock, "tokens of a block"}},
                        [](ConfigReader& reader, const ModelShape& shape) -> Policy {
                          const auto rules = read_rules(reader, shape);
                          const int64_t block = reader.integer("block", MoaRule::kBlock, 1, 1 << 20);
                          return [=](const LayerContext& layer) {
                            return std::make_unique<MoaSparse>(rules.at(size_t(layer.index)), block);
                          };
                        });
  row.covering = {{"rule", {{"a", 0}, {"b", 1}}}};
  row.tight = {{"rule", {{"a", 24}, {"b", 0}}}, {"block", 8}};
  row.chunk_invariant = true;
  row.at_budget = [](int64_t budget) {
    const int64_t block = std::clamp<int64_t>(budget / 4, 1, MoaRule::kBlock);
    return nlohmann::json{{"rule", {{"a", std::max<int64_t>(1, budget - block)}, {"b", 0}}}, {"block", block}};
  };
  return row;
}

}  // namespace rows
}  // namespace heed::cache
