// ActQKV (arXiv 2502.13542): blocks recalled by a probe of the unusual queries of a window; layers share a budget.
#include "cache/policies/act_qkv.h"

#include "cache/rows.h"
#include "heed/error.h"

namespace heed::cache {
namespace {

using torch::Tensor;

struct ActQkvSettings {
  int64_t block = 32, sinks = 32, window = 512, budget = 2048, chunk = 512, least = 4;
  double mass = 0.9;

  int64_t sink_blocks() const { return (sinks + block - 1) / block; }
  int64_t mean_blocks() const { return (budget - sinks - window) / block; }
};

/// What the layers of a state wanted in the last step decides what they get in the next.
class SharedBudgets {
 public:
  SharedBudgets(int64_t layers, const ActQkvSettings& settings) : layers_(layers), s_(settings) {}

  /// Blocks of a layer for a sequence at a step. The first who asks of a new step ends the one before.
  int64_t at(int64_t step, int64_t layer, size_t sequence) {
    if (step != step_) {
      step_ = step;
      for (size_t b = 0; b < wanted_.size(); ++b)
        if (std::find(wanted_[b].begin(), wanted_[b].end(), 0) == wanted_[b].end())
          granted_[b] = layer_budgets(wanted_[b], s_.mean_blocks(), s_.least);
    }
    while (wanted_.size() <= sequence) {
      wanted_.emplace_back(layers_, 0);
      granted_.emplace_back(layers_, s_.mean_blocks());
    }
    return granted_[sequence][layer];
  }
  void want(int64_t layer, size_t sequence, int64_t blocks) { wanted_[sequence][layer] = blocks; }

 private:
  int64_t layers_, step_ = -1;
  ActQkvSettings s_;
  std::vector<std::vector<int64_t>> wanted_, granted_;  // [sequence][layer]
};

/// Slots are places in the text. Keys are kept unrotated, and blocks are scored so; what is read stands at its rank.
class ActQkv : public LayerCache {
 public:
  explicit ActQkv(const ActQkvSettings& settings)
      : s_(settings), budgets_(std::make_shared<SharedBudgets>(1, settings)) {}
  int64_t policy_bytes() const override { return means_.defined() ? int64_t(means_.nbytes()) : 0; }

  void meet(const std::vector<LayerCache*>& all) override {
    std::vector<ActQkv*> others;
    for (auto* cache : all)
      if (auto* other = dynamic_cast<ActQkv*>(cache)) others.push_back(other);
    layer_ = std::find(others.begin(), others.end(), this) - others.begin();
    budgets_ = layer_ == 0 ? std::make_shared<SharedBudgets>(int64_t(others.size()), s_) : others[0]->budgets_;
  }

 protected:
  bool keeps_unrotated() const override { return true; }

  void store(const Chunk& chunk) override {
    LayerCache::store(chunk);
    const int64_t blocks = (kv_.longest() + s_.block - 1) / s_.block;
    if (!means_.defined() || means_.size(2) < blocks) {
      auto grown = torch::zeros({kv_.batch(), kv_.heads(), blocks + std::min<int64_t>(blocks / 4, 64), chunk.k.size(3)},
                                torch::kFloat32);
      if (means_.defined()) grown.narrow(2, 0, means_.size(2)).copy_(means_);
      means_ = grown;
    }
    const auto cache = everything();
    ops::average_keys(cache, averaged_.defined() ? averaged_ : torch::zeros_like(cache.lengths), s_.block, means_);
    averaged_ = cache.lengths;
  }

  Tensor attend_chunk(const Chunk& chunk) override {
    return attend_in_parts(chunk, s_.chunk, [&](int64_t at, int64_t n) { return attend_part(chunk, at, n); });
  }

  Tensor attend_step(const Chunk& chunk) override {
    auto options = decode_options(chunk);
    const auto cache = covers(1, seen()) ? everything() : blocks(recalled(chunk), s_.block);
    options.rotation = rotation_on_read(chunk, cache.lengths.max().item<int64_t>());
    const auto places = cache.lengths.narrow(1, 0, 1) - 1;
    return decode(rotate_query(chunk, chunk.q, places), cache, options).out;
  }

 private:
  /// The first of n queries that end at `end` sees `window` tokens, its own included; candidates are the whole blocks
  /// before, behind the sinks.
  int64_t first_recent(int64_t n, int64_t end) const {
    return std::max<int64_t>(0, end - n - s_.window + 1) / s_.block;
  }
  bool covers(int64_t n, int64_t end) const {
    return s_.mass >= 1 || first_recent(n, end) - s_.sink_blocks() <= s_.mean_blocks();
  }

  /// Of probes [b, Hq, 1, D] for candidate blocks: float [b, 1, 1, candidates], summed over the heads.
  Tensor scores(const Tensor& probe, const Tensor& means, int64_t recent) const {
    ops::CacheTensors cache;
    cache.k = means.slice(2, s_.sink_blocks(), recent);
    cache.lengths = torch::full({means.size(0), means.size(1)}, cache.k.size(2), torch::kInt64);
    ops::SlotScoreOptions options;
    options.scale = 1;
    options.heads = kernels::HeadReduction::sum;
    options.all_heads = true;
    return ops::slot_scores(probe, cache, options);
  }

  /// The best `count` candidates between the sinks and what is recent, int32 [b, blocks].
  Tensor listed(const Tensor& scores, int64_t count, int64_t recent, int64_t end) const {
    const auto range = [&](int64_t from, int64_t to) {
      return torch::arange(from, to, torch::kInt32).expand({scores.size(0), to - from});
    };
    const auto chosen = ops::top_k(scores, count).flatten(1) + static_cast<int32_t>(s_.sink_blocks());
    return torch::cat({range(0, s_.sink_blocks()), chosen, range(recent, (end + s_.block - 1) / s_.block)}, 1);
  }

  /// Blocks for a step, int32 [B, Hkv, blocks]: as many candidates as the layer has got for each sequence.
  Tensor recalled(const Chunk& chunk) {
    const int64_t recent = first_recent(1, seen()), candidates = recent - s_.sink_blocks();
    const auto all = scores(chunk.q.to(torch::kFloat32), means_, recent);
    const double scale = chunk.call.options.scale;
    const auto weights = (all * (scale == 0 ? 1 / std::sqrt(double(chunk.q.size(3))) : scale)).softmax(3).flatten(1);
    const auto below = std::get<0>(weights.sort(1, true)).cumsum(1).lt(s_.mass).sum(1) + 1;
    std::vector<Tensor> lists;
    int64_t most = 0;
    for (int64_t b = 0; b < all.size(0); ++b) {
      const int64_t count = budgets_->at(seen(), layer_, size_t(b));
      budgets_->want(layer_, size_t(b), std::min(below[b].item<int64_t>(), candidates));
      lists.push_back(listed(all.narrow(0, b, 1), count, recent, seen()));
      most = std::max(most, lists.back().size(1));
    }
    count_scored(candidates * kv_.rows());
    for (auto& list : lists) list = torch::constant_pad_nd(list, {0, most - list.size(1)}, -1);
    return torch::cat(lists, 0).unsqueeze(1).expand({-1, kv_.heads(), -1}).contiguous();
  }

  /// Queries [at, at + n) of the chunk, one window: its probe recalls for all of them.
  Tensor attend_part(const Chunk& chunk, int64_t at, int64_t n) {
    const int64_t end = chunk.first + at + n;
    const auto q = chunk.q.narrow(2, at, n);
    auto k = kv_.keys().narrow(2, 0, end), v = kv_.values().narrow(2, 0, end);
    if (!covers(n, end)) {
      const int64_t recent = first_recent(n, end), skipped = std::max<int64_t>(0, s_.sinks - (end - n));
      // Sinks deviate from everything.
      const auto probe = probe_query(q.slice(2, std::min(skipped, n - 1)));
      const auto list = listed(scores(probe, means_, recent), s_.mean_blocks(), recent, end).to(torch::kInt64);
      auto slots = (list.unsqueeze(2) * s_.block + torch::arange(s_.block)).flatten(1);
      slots = slots.slice(1, 0, slots.size(1) - ((end + s_.block - 1) / s_.block * s_.block - end));
      const auto index = slots.unsqueeze(1).unsqueeze(3);
      k = k.gather(2, index.expand({-1, kv_.heads(), -1, k.size(3)}));
      v = v.gather(2, index.expand({-1, kv_.heads(), -1, v.size(3)}));
    }
    const auto ranks = torch::arange(k.size(2));
    auto options = chunk.call.options;
    options.mask = Causal{};
    return attention(rotate(chunk, q, ranks.slice(0, k.size(2) - n)), rotate(chunk, k, ranks), v, options);
  }

  ActQkvSettings s_;
  int64_t layer_ = 0;  // among those that share
  std::shared_ptr<SharedBudgets> budgets_;
  Tensor means_;     // float [B, Hkv, blocks and room for more, D]
  Tensor averaged_;  // int64 [B, Hkv]
};

}  // namespace

namespace rows {

PolicyRow act_qkv() {
  auto row = policy_row(
      "act_qkv", "arXiv 2502.13542", 2025, "N / block scored + budget read; N held",
      {{"block", 32, "tokens of a block"},
       {"sinks", 32, "first tokens that are always read; whole blocks"},
       {"window", 512, "recent tokens that are always read, the own one included; whole blocks"},
       {"budget", 2048, "tokens read in all, on average over the layers"},
       {"chunk", 512, "tokens of the prompt that share a probe"},
       {"mass", 0.9,
        "weight of the blocks a layer wants; layers get their budget in proportion. 1: everything is read"},
       {"least", 4, "blocks that every layer gets"}},
      [](ConfigReader& reader, const ModelShape&) -> Policy {
        ActQkvSettings s;
        s.block = reader.integer("block", s.block, 1, 1 << 20);
        s.sinks = reader.integer("sinks", s.sinks, 0, 1 << 30);
        s.window = reader.integer("window", s.window, 1, 1 << 30);
        s.budget = reader.integer("budget", s.budget, 1);
        s.chunk = reader.integer("chunk", s.chunk, 1);
        s.mass = reader.get("mass", s.mass);
        s.least = reader.integer("least", s.least, 1);
        require(s.mass > 0 && s.mass <= 1, "{}: mass = {}: above 0 and at most 1 is accepted", reader.owner(), s.mass);
        require(s.mean_blocks() >= s.least, "{}: budget = {}: sinks, window and {} blocks, {} or more, is accepted",
                reader.owner(), s.budget, s.least, s.sinks + s.window + s.least * s.block);
        return [s](const LayerContext&) { return std::make_unique<ActQkv>(s); };
      });
  row.covering = {{"budget", 4096}};
  row.at_budget = [](int64_t budget) {
    const int64_t block = std::clamp<int64_t>(budget / 32, 1, 32), window = std::max<int64_t>(1, budget / 4);
    return nlohmann::json{{"block", block},
                          {"sinks", block},
                          {"window", window},
                          {"budget", std::max(budget, 2 * block + window)},
                          {"least", 1}};
  };
  row.tight = {{"block", 8}, {"sinks", 4}, {"window", 17}, {"budget", 61}, {"chunk", 32}, {"least", 2}};
  return row;
}

}  // namespace rows
}  // namespace heed::cache
