// RetrievalAttention (arXiv 2409.10516): the prompt's keys in a graph that its queries built; steps search it.
#include <ATen/Parallel.h>

#include <numeric>

#include "cache/key_graph.h"
#include "cache/rows.h"
#include "heed/error.h"

namespace heed::cache {
namespace {

using torch::Tensor;

struct RetrievalAttentionSettings {
  int64_t sinks = 128, recent = 512, top_k = 100, beam = 128, near = 32, degree = 32, samples = 4096;
  bool exact = false;
};

/// Scores that are held at a time while the graph is built.
constexpr int64_t kScores = 1 << 20;

/// Always read are the sinks and what came later than `recent` tokens before the end of the prompt: what is decoded is
/// not indexed.
class RetrievalAttention : public LayerCache {
 public:
  explicit RetrievalAttention(const RetrievalAttentionSettings& settings) : s_(settings) {}
  int64_t policy_bytes() const override {
    int64_t bytes = 0;
    for (const auto& graph : graphs_) bytes += graph.bytes();
    for (const auto& held : {sample_, wide_keys_}) bytes += held.defined() ? int64_t(held.nbytes()) : 0;
    return bytes;
  }

  int64_t cold_bytes() const override {
    const double pair = indexed() <= 0 ? 0 : kv_.key_slab().slot_bytes() + kv_.value_slab().slot_bytes();
    return static_cast<int64_t>(double(kv_.rows() * indexed()) * pair);
  }

 protected:
  void after_chunk(const Chunk& chunk) override {
    if (!in_prompt() || s_.exact) return;
    const int64_t offset = (stride_ - chunk.first % stride_) % stride_;
    if (offset >= chunk.size()) return;
    const auto part = chunk.q.slice(2, offset, chunk.size(), stride_).to(torch::kFloat32);
    sample_ = sample_.defined() ? torch::cat({sample_, part}, 2) : part;
    for (; sample_.size(2) > s_.samples; stride_ *= 2) sample_ = sample_.slice(2, 0, sample_.size(2), 2).contiguous();
  }

  void compress() override {
    end_ = seen() - s_.recent;
    const auto sample = std::exchange(sample_, {});
    if (indexed() <= 0 || s_.exact) return;
    if (kv_.key_slab().dtype() != torch::kFloat32 || !storage().exact()) wide_keys_ = candidates().to(torch::kFloat32);
    const auto found = best_keys(sample).unflatten(1, {kv_.heads(), -1});  // [B, Hkv, G, S, near]
    graphs_.resize(size_t(kv_.rows()));
    const auto lists = found.contiguous();
    const int64_t width = lists.size(4), size = lists.numel() / kv_.rows();
    at::parallel_for(0, kv_.rows(), 1, [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        const auto* list = lists.data_ptr<int32_t>() + r * size;
        graphs_[r] = KeyGraph(rows_of(r), {list, size_t(size)}, width, s_.degree);
      }
    });
  }

  Tensor attend_step(const Chunk& chunk) override {
    if (indexed() <= 0) return LayerCache::attend_step(chunk);
    auto options = decode_options(chunk);
    const auto always =
        torch::cat({torch::arange(s_.sinks, torch::kInt32), torch::arange(end_, seen(), torch::kInt32)});
    const auto hot = decode(chunk.q, gathered(always.expand({kv_.batch(), kv_.heads(), -1})), options);
    const auto chosen = s_.exact ? scan(chunk.q) : search(chunk.q);
    return merge(hot, decode(chunk.q, gathered(chosen + static_cast<int32_t>(s_.sinks)), options)).out;
  }

 private:
  int64_t indexed() const { return end_ - s_.sinks; }
  Tensor candidates() const { return kv_.keys().slice(2, s_.sinks, end_); }

  KeyRows rows_of(int64_t row) const {
    const int64_t dim = kv_.key_slab().dim();
    const auto keys = wide_keys_.defined() ? wide_keys_[row / kv_.heads()][row % kv_.heads()]
                                           : kv_.keys(row).slice(0, s_.sinks, end_);
    return {keys.data_ptr<float>(), indexed(), dim, keys.stride(0)};
  }

  /// Products of q [B, Hq, n, D] with the candidates, float [B, Hq, n, candidates].
  Tensor products(const Tensor& q) const {
    ops::SlotScoreOptions options;
    options.scale = 1;
    options.begin = s_.sinks;
    options.exclude_last = kv_.longest() - end_;
    return ops::slot_scores(q, everything(), options).slice(3, s_.sinks, end_).contiguous();
  }

  /// The `near` best candidates of every query, best first: int32 [B, Hq, S, near].
  Tensor best_keys(const Tensor& queries) const {
    std::vector<Tensor> parts;
    const int64_t at_once = std::max<int64_t>(1, kScores / (queries.size(0) * queries.size(1) * kv_.longest()));
    for (int64_t i = 0; i < queries.size(2); i += at_once) {
      const auto scores = products(queries.slice(2, i, i + at_once).contiguous());
      const auto best = ops::top_k(scores, s_.near);
      const auto order = scores.gather(3, best.to(torch::kInt64)).argsort(3, true);
      parts.push_back(best.gather(3, order));
    }
    return torch::cat(parts, 2);
  }

  /// Every product: int32 [B, Hq, top_k].
  Tensor scan(const Tensor& q) {
    count_scored(indexed() * q.size(0) * q.size(1));
    return ops::top_k(products(q), s_.top_k).squeeze(2);
  }

  Tensor search(const Tensor& q) {
    const auto queries = q.to(torch::kFloat32).contiguous();
    const int64_t count = std::min(s_.top_k, indexed()), group = q.size(1) / kv_.heads();
    auto chosen = torch::empty({q.size(0), q.size(1), count}, torch::kInt32);
    std::vector<int64_t> scanned(size_t(q.size(0) * q.size(1)));
    at::parallel_for(0, int64_t(scanned.size()), 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const auto* query = queries.data_ptr<float>() + i * queries.size(3);
        auto found = graphs_[i / group].search(rows_of(i / group), query, s_.beam, count);
        // A connected graph gives as many as are asked for.
        std::sort(found.keys.begin(), found.keys.end());
        std::copy(found.keys.begin(), found.keys.end(), chosen.data_ptr<int32_t>() + i * count);
        scanned[i] = found.scanned;
      }
    });
    count_scored(std::accumulate(scanned.begin(), scanned.end(), int64_t{0}));
    return chosen;
  }

  RetrievalAttentionSettings s_;
  int64_t end_ = 0;               // of the tokens that are indexed
  std::vector<KeyGraph> graphs_;  // [B * Hkv]
  Tensor wide_keys_;              // float [B, Hkv, indexed, D]: of caches that hold other keys
  Tensor sample_;                 // float [B, Hq, S, D]: every stride_-th query of the prompt, until it is over
  int64_t stride_ = 1;
};

}  // namespace

namespace rows {

PolicyRow retrieval_attention() {
  auto row = policy_row(
      "retrieval_attention", "arXiv 2409.10516", 2024, "sinks + recent + generated + top_k read; N and a graph held",
      {{"sinks", 128, "first tokens that are always read"},
       {"recent", 512, "last tokens of the prompt that are always read, as are all later ones"},
       {"top_k", 100, "tokens that are retrieved from between them"},
       {"per", "query_head", "query_head: top_k for each; kv_head: top_k for each group, in equal shares"},
       {"beam", 128, "keys that a search goes on from; at least top_k"},
       {"near", 32, "best keys of a query of the prompt that build the graph"},
       {"degree", 32, "links of a key, before those that connect the graph"},
       {"samples", 4096, "queries of the prompt that build the graph, at most"},
       {"search", "graph", "graph, or exact: all keys are scored at every step"}},
      [](ConfigReader& reader, const ModelShape& shape) -> Policy {
        RetrievalAttentionSettings s;
        s.sinks = reader.integer("sinks", s.sinks, 0);
        s.recent = reader.integer("recent", s.recent, 1);
        s.top_k = reader.integer("top_k", s.top_k, 1, 1 << 30);
        if (reader.choice("per", "query_head", {"query_head", "kv_head"}) == "kv_head")
          s.top_k = std::max<int64_t>(1, s.top_k * shape.kv_heads / shape.heads);
        s.beam = reader.integer("beam", std::max(s.beam, s.top_k), 1, 1 << 30);
        s.near = reader.integer("near", s.near, 2, 1 << 20);
        s.degree = reader.integer("degree", s.degree, 1, 1 << 20);
        s.samples = reader.integer("samples", s.samples, 1);
        s.exact = reader.choice("search", "graph", {"graph", "exact"}) == "exact";
        require(s.beam >= s.top_k, "{}: beam = {}: top_k, {}, or more is accepted", reader.owner(), s.beam, s.top_k);
        return [s](const LayerContext&) { return std::make_unique<RetrievalAttention>(s); };
      });
  row.covering = {{"sinks", 4}, {"recent", 16}, {"top_k", 2000}, {"beam", 2000}};
  row.at_budget = [](int64_t budget) {
    const int64_t sinks = std::min<int64_t>(128, budget / 16), recent = std::max<int64_t>(1, budget / 4);
    return nlohmann::json{{"sinks", sinks},
                          {"recent", recent},
                          {"top_k", std::max<int64_t>(1, budget - sinks - recent)},
                          {"per", "kv_head"}};
  };
  row.tight = {{"sinks", 4}, {"recent", 16}, {"top_k", 20}, {"beam", 32}};
  return row;
}

}  // namespace rows
}  // namespace heed::cache
