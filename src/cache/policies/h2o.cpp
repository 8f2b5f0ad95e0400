// H2O (arXiv 2306.14048): the tokens that have got most attention so far, and a recent window.
#include "cache/budget.h"
#include "cache/rows.h"
#include "heed/ops/attn_stats.h"

namespace heed::cache {
namespace {

using torch::Tensor;

struct H2oSettings {
  Budget heavy{0.1}, recent{0.1};
  bool per_query = false;
};

/// Scores and positions lie beside the slots of each row. One slot more than the budget is held: the one given up last,
/// which the next token takes.
class H2o : public LayerCache {
 public:
  explicit H2o(const H2oSettings& settings) : s_(settings) {}
  int64_t policy_bytes() const override {
    return scores_.defined() ? int64_t(scores_.nbytes() + positions_.nbytes()) : 0;
  }

 protected:
  void store(const Chunk& chunk) override {
    if (!victims_.defined() || chunk.size() > 1) {
      if (victims_.defined()) drop_victims();
      LayerCache::store(chunk);
      grow(chunk);
      return;
    }
    const auto* victims = victims_.data_ptr<int64_t>();
    for (int64_t r = 0; r < kv_.rows(); ++r) {
      const int64_t b = r / kv_.heads(), h = r % kv_.heads();
      kv_.replace(r, victims[r], chunk.k[b][h][0], chunk.v[b][h][0], chunk.first);
    }
    scores_.scatter_(2, victims_, 0);
    positions_.scatter_(2, victims_, chunk.first);
  }

  Tensor attend_chunk(const Chunk& chunk) override {
    Tensor lse;
    const auto out = attend_slots(chunk, Mask(Causal{}), &lse);
    // Every row holds equally many slots.
    auto options = chunk.call.options;
    options.mask = Causal{};
    add(ops::line_sums(chunk.q, kv_.keys(), options, lse).columns);
    return out;
  }

  Tensor attend_step(const Chunk& chunk) override {
    auto options = decode_options(chunk);
    options.column_sum = true;
    const auto result = decode(chunk.q, everything(), options);
    add(result.column_sum);
    return result.out;
  }

  void shortened(int64_t slots) override {
    scores_ = scores_.narrow(2, 0, slots).contiguous();
    positions_ = positions_.narrow(2, 0, slots).contiguous();
    victims_.reset();
  }

  void after_chunk(const Chunk&) override {
    if (!in_prompt()) evict(0);
  }
  void after_step(const Chunk&) override { evict(1); }

  void compress() override {
    heavy_ = s_.heavy.tokens(seen());
    recent_ = std::max<int64_t>(1, s_.recent.tokens(seen()));
    evict(0);
  }

 private:
  int64_t budget() const { return heavy_ + recent_; }

  void grow(const Chunk& chunk) {
    const auto zeros = torch::zeros({kv_.batch(), kv_.heads(), chunk.size()});
    const auto new_positions = torch::arange(chunk.first, chunk.first + chunk.size()).expand(zeros.sizes());
    scores_ = scores_.defined() ? torch::cat({scores_, zeros}, 2) : zeros;
    positions_ = positions_.defined() ? torch::cat({positions_, new_positions}, 2) : new_positions.contiguous();
  }

  void add(const Tensor& weights) { scores_ += weights.unflatten(1, {kv_.heads(), -1}).sum(2); }

  /// What eviction goes by: recent tokens are above all others.
  Tensor ranking() const {
    auto ranking = s_.per_query ? scores_ / (seen() - positions_) : scores_;
    return ranking.masked_fill(positions_ >= seen() - recent_, INFINITY);
  }

  /// Down to the budget; with `spare` = 1 the slot given up stays for the next token.
  void evict(int64_t spare) {
    const int64_t length = scores_.size(2);
    if (length <= budget()) return;
    if (spare == 1 && length == budget() + 1) {
      victims_ = ranking().argmin(2, true);
      return;
    }
    victims_.reset();
    keep(ops::top_k(ranking().unsqueeze(2), budget()).squeeze(2).to(torch::kInt64));
  }

  void drop_victims() {
    auto ranking = torch::zeros_like(scores_);
    ranking.scatter_(2, victims_, -INFINITY);
    keep(ops::top_k(ranking.unsqueeze(2), scores_.size(2) - 1).squeeze(2).to(torch::kInt64));
    victims_.reset();
  }

  /// Slots int64 [B, Hkv, S], in the order of their positions, so that masks on slots hold.
  void keep(const Tensor& slots) {
    const auto order = positions_.gather(2, slots).argsort(2, false);
    const auto sorted = slots.gather(2, order).contiguous();
    scores_ = scores_.gather(2, sorted);
    positions_ = positions_.gather(2, sorted);
    std::vector<std::vector<int64_t>> lists;
    const auto flat = sorted.view({kv_.rows(), -1});
    for (int64_t r = 0; r < kv_.rows(); ++r) {
      const auto* from = flat.data_ptr<int64_t>() + r * flat.size(1);
      lists.emplace_back(from, from + flat.size(1));
    }
    kv_.keep(lists);
  }

  H2oSettings s_;
  int64_t heavy_ = 0, recent_ = 0;
  Tensor scores_;     // float [B, Hkv, slots], summed over the query heads of a group
  Tensor positions_;  // int64 [B, Hkv, slots]
  Tensor victims_;    // int64 [B, Hkv, 1] or undefined
};

}  // namespace

namespace rows {

PolicyRow h2o() {
  auto row =
      policy_row("h2o", "arXiv 2306.14048", 2023, "heavy + recent",
                 {{"heavy", 0.1, "tokens with the largest accumulated attention; below 1: a share of the prompt"},
                  {"recent", 0.1, "recent tokens; below 1: a share of the prompt"},
                  {"per_query", false, "scores are divided by the number of queries that saw the token"}},
                 [](ConfigReader& reader, const ModelShape&) -> Policy {
                   H2oSettings settings;
                   settings.heavy = Budget::read(reader, "heavy", 0.1);
                   settings.recent = Budget::read(reader, "recent", 0.1);
                   settings.per_query = reader.get("per_query", false);
                   return [settings](const LayerContext&) { return std::make_unique<H2o>(settings); };
                 });
  row.covering = {{"heavy", 1000}, {"recent", 1000}};
  row.tight = {{"heavy", 20}, {"recent", 17}};
  row.chunk_invariant = true;
  row.at_budget = [](int64_t budget) {
    return nlohmann::json{{"heavy", budget - budget / 2}, {"recent", std::max<int64_t>(1, budget / 2)}};
  };
  return row;
}

}  // namespace rows
}  // namespace heed::cache
