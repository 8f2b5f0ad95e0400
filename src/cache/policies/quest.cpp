// Quest (arXiv 2406.10774): each step reads the pages whose keys could score highest; nothing is dropped.
#include "cache/rows.h"

namespace heed::cache {
namespace {

using torch::Tensor;

struct QuestSettings {
  int64_t page = 16, budget = 1024, dense_layers = 2;
};

class Quest : public LayerCache {
 public:
  Quest(const QuestSettings& settings, bool dense) : s_(settings), dense_(dense) {}
  int64_t policy_bytes() const override { return extremes_.defined() ? int64_t(extremes_.nbytes()) : 0; }

 protected:
  void store(const Chunk& chunk) override {
    LayerCache::store(chunk);
    if (dense_) return;
    const int64_t pages = pages_of(kv_.longest());
    // Bounds of keys that are codes are float.
    const auto type = kv_.format().exact() ? chunk.k.scalar_type() : torch::kFloat32;
    if (extremes_.defined()) extremes_ = extremes_.to(type);
    if (!extremes_.defined() || extremes_.size(2) < pages) {
      const int64_t room = pages + std::min<int64_t>(pages / 4, 64);
      auto grown = torch::zeros({kv_.batch(), kv_.heads(), room, 2 * chunk.k.size(3)}, type);
      if (extremes_.defined()) grown.narrow(2, 0, extremes_.size(2)).copy_(extremes_);
      extremes_ = grown;
    }
    const auto cache = everything();
    ops::summarize_keys(cache, summarized_.defined() ? summarized_ : torch::zeros_like(cache.lengths), s_.page,
                        extremes_);
    summarized_ = cache.lengths;
  }

  Tensor attend_step(const Chunk& chunk) override {
    const int64_t pages = pages_of(kv_.longest()), wanted = std::max<int64_t>(3, s_.budget / s_.page);
    if (dense_ || pages <= wanted) return LayerCache::attend_step(chunk);
    const auto& o = chunk.call.options;
    const auto lengths = kv_.lengths();
    const auto bounds = ops::page_bounds(chunk.q, extremes_.narrow(2, 0, pages), lengths, s_.page, o.scale,
                                         kernels::HeadReduction::max);
    count_scored(2 * pages * kv_.rows());
    const auto chosen = ops::top_k(bounds, wanted, 0, 1).squeeze(2);
    ops::DecodeOptions options;
    options.scale = o.scale;
    options.softcap = o.softcap;
    options.mask = {};
    return decode(chunk.q, blocks(chosen, s_.page), options).out;
  }

 private:
  int64_t pages_of(int64_t slots) const { return (slots + s_.page - 1) / s_.page; }

  QuestSettings s_;
  bool dense_;
  Tensor extremes_;    // [B, Hkv, pages, 2 D]
  Tensor summarized_;  // int64 [B, Hkv]
};

}  // namespace

namespace rows {

PolicyRow quest() {
  auto row = policy_row("quest", "arXiv 2406.10774", 2024, "2 N / page + budget read; N held",
                        {{"page", 16, "tokens of a page"},
                         {"budget", 1024, "tokens read a step, the newest page included; at least 3 pages"},
                         {"dense_layers", 2, "first layers that read everything"}},
                        [](ConfigReader& reader, const ModelShape&) -> Policy {
                          QuestSettings s;
                          s.page = reader.integer("page", s.page, 1, 1 << 20);
                          s.budget = reader.integer("budget", s.budget, 1);
                          s.dense_layers = reader.integer("dense_layers", s.dense_layers, 0);
                          return [s](const LayerContext& layer) {
                            return std::make_unique<Quest>(s, layer.index < s.dense_layers);
                          };
                        });
  row.tight = {{"budget", 48}, {"dense_layers", 0}};
  row.chunk_invariant = true;
  row.at_budget = [](int64_t budget) { return nlohmann::json{{"budget", budget}, {"dense_layers", 0}}; };
  return row;
}

}  // namespace rows
}  // namespace heed::cache
