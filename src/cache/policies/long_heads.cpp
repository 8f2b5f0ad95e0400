// LongHeads (arXiv 2402.10685): each head reads as much as the model was trained on, in chunks that it chooses itself.
#include "cache/rows.h"
#include "heed/error.h"

namespace heed::cache {
namespace {

using torch::Tensor;

struct LongHeadsSettings {
  int64_t chunk = 256, window = 4096;
  int64_t chunks() const { return window / chunk; }
};

/// Queries whose scores and page tables are made at a time.
constexpr int64_t kQueries = 128;

/// Slots are places in the text. Keys are kept unrotated; what is read stands at its rank, so the query of token i
/// stands at the end of its own, begun chunk. While no more than the window has been seen, that is everything.
class LongHeads : public LayerCache {
 public:
  explicit LongHeads(const LongHeadsSettings& settings) : s_(settings) {}
  int64_t policy_bytes() const override {
    return (chunk_keys_.defined() ? int64_t(chunk_keys_.nbytes()) : 0) +
           (queries_.defined() ? int64_t(queries_.nbytes()) : 0);
  }

 protected:
  bool keeps_unrotated() const override { return true; }

  void store(const Chunk& chunk) override {
    LayerCache::store(chunk);
    auto waiting = queries_.defined() ? torch::cat({queries_, chunk.q}, 2) : chunk.q;
    int64_t first = chunk.first + chunk.size() - waiting.size(2);
    for (; waiting.size(2) >= s_.chunk; first += s_.chunk) {
      summarize(chunk, waiting.narrow(2, 0, s_.chunk), first);
      waiting = waiting.slice(2, s_.chunk);
    }
    queries_ = waiting.clone();
  }

  Tensor attend_chunk(const Chunk& chunk) override { return attend_queries(chunk, false); }
  Tensor attend_step(const Chunk& chunk) override { return attend_queries(chunk, true); }

 private:
  /// A finished chunk's key for every query head: what the chunk's mean output asks of the chunk's keys.
  void summarize(const Chunk& chunk, const Tensor& q, int64_t first) {
    require(chunk.k.size(3) == chunk.v.size(3),
            "policy long_heads: keys of size {} and values of size {}: equal sizes are accepted", chunk.k.size(3),
            chunk.v.size(3));
    auto options = chunk.call.options;
    options.mask = {};
    const auto places = torch::arange(s_.chunk);
    const auto k = rotate(chunk, kv_.keys().narrow(2, first, s_.chunk), places);
    const auto v = kv_.values().narrow(2, first, s_.chunk);
    const auto mean = attention(rotate(chunk, q, places), k, v, options).mean(2, true);
    const auto key = attention(mean, k, k, options);
    const int64_t index = first / s_.chunk;
    if (!chunk_keys_.defined() || chunk_keys_.size(2) == index) {
      auto grown = torch::empty({key.size(0), key.size(1), index + std::clamp<int64_t>(index / 4, 1, 64), key.size(3)},
                                key.options());
      if (index > 0) grown.narrow(2, 0, index).copy_(chunk_keys_);
      chunk_keys_ = grown;
    }
    chunk_keys_.select(2, index).copy_(key.squeeze(2));
  }

  Tensor attend_queries(const Chunk& chunk, bool step) {
    std::vector<Tensor> outs;
    for (int64_t at = 0; at < chunk.size();) {
      const int64_t place = chunk.first + at;
      // Queries of one begun chunk choose among the same chunks.
      const int64_t end = place < s_.window ? s_.window : (place / s_.chunk + 1) * s_.chunk;
      int64_t n = std::min(chunk.size() - at, end - place);
      if (place >= s_.window) n = std::min(n, kQueries);
      outs.push_back(place < s_.window ? attend_all(chunk, at, n, step) : attend_chosen(chunk, at, n, step));
      at += n;
    }
    return outs.size() == 1 ? outs[0] : torch::cat(outs, 2);
  }

  /// Queries [at, at + n) of the call over everything before them.
  Tensor attend_all(const Chunk& chunk, int64_t at, int64_t n, bool step) {
    const int64_t end = chunk.first + at + n;
    const auto q = chunk.q.narrow(2, at, n);
    const auto places = torch::arange(end);
    if (step) return decode(rotate_query(chunk, q, places.slice(0, end - n)), everything(), options(chunk, end)).out;
    auto options = chunk.call.options;
    options.mask = Causal{};
    return attention(rotate(chunk, q, places.slice(0, end - n)), rotate(chunk, kv_.keys().narrow(2, 0, end), places),
                     kv_.values().narrow(2, 0, end), options);
  }

  /// Queries [at, at + n), all of one begun chunk, over the chunks they choose and their own up to them.
  Tensor attend_chosen(const Chunk& chunk, int64_t at, int64_t n, bool step) {
    const int64_t own = (chunk.first + at) / s_.chunk, batch = kv_.batch();
    ops::CacheTensors keys;
    keys.k = chunk_keys_.narrow(2, 0, own);
    keys.lengths = torch::full({batch, chunk.q.size(1)}, own, torch::kInt64);
    const auto q = chunk.q.narrow(2, at, n);
    ops::SlotScoreOptions scoring;
    scoring.scale = chunk.call.options.scale;
    const auto scores = ops::slot_scores(q, keys, scoring).unflatten(1, {kv_.heads(), -1}).mean(2);
    // The first, the one before the own, and the best of the others.
    const auto chosen = ops::top_k(scores.contiguous(), s_.chunks() - 1, 1, 1);
    const auto owns = torch::full({batch, kv_.heads(), n, 1}, own, torch::kInt32);
    // Every query a sequence of its own: [B * n, Hkv, chunks].
    const auto lists = torch::cat({chosen, owns}, 3).transpose(1, 2).flatten(0, 1);
    auto cache = chunks(lists, n);
    const auto places = torch::arange(n) + (chunk.first + at - own * s_.chunk) + (s_.chunks() - 1) * s_.chunk;
    cache.lengths = (places + 1).repeat({batch}).unsqueeze(1).expand({-1, kv_.heads()}).contiguous();
    const auto asked = rotate_query(chunk, q, places).transpose(1, 2).flatten(0, 1).unsqueeze(2);
    const auto o = options(chunk, s_.window);
    const auto out = step ? decode(asked, cache, o).out : ops::decode(asked, cache, o).out;
    if (step) count_scored(own * chunk.q.size(1) * batch);
    return out.squeeze(2).unflatten(0, {batch, n}).transpose(1, 2);
  }

  /// Lists of chunks of `n` queries a sequence as pages; their lengths are the caller's.
  ops::CacheTensors chunks(const Tensor& lists, int64_t n) const {
    const bool whole = s_.chunk % nn::RaggedKv::kPage == 0;
    const int64_t page = whole ? nn::RaggedKv::kPage : 1, units = s_.chunk / page;
    auto offsets = torch::empty({kv_.batch(), kv_.heads()}, torch::kInt32);
    for (int64_t r = 0; r < kv_.rows(); ++r)
      offsets.data_ptr<int32_t>()[r] = static_cast<int32_t>(kv_.offset(r) / page);
    auto cache = kv_.pages(page);
    const auto entries = lists.unsqueeze(3) * static_cast<int32_t>(units) + torch::arange(units, torch::kInt32);
    const auto table = entries.flatten(2) + offsets.repeat_interleave(n, 0).unsqueeze(2);
    // The begun chunk may reach beyond what there is room for; nothing is read there.
    cache.table = table.clamp_max(static_cast<int32_t>(cache.k.size(0) - 1)).contiguous();
    return cache;
  }

  ops::DecodeOptions options(const Chunk& chunk, int64_t slots) const {
    auto options = decode_options(chunk);
    options.rotation = rotation_on_read(chunk, slots);
    return options;
  }

  LongHeadsSettings s_;
  Tensor chunk_keys_;  // [B, Hq, chunks and room for more, D]
  Tensor queries_;     // [B, Hq, < chunk, D]: unrotated, of the chunk that is begun
};

}  // namespace

namespace rows {

PolicyRow long_heads() {
  auto row = policy_row("long_heads", "arXiv 2402.10685", 2024, "N / chunk scored + window read; N held",
                        {{"chunk", 256, "tokens of a chunk"},
                         {"window", 4096,
                          "tokens that a head reads, at most as many as the model was trained on; a "
                          "multiple of the chunk, three of them or more"}},
                        [](ConfigReader& reader, const ModelShape&) -> Policy {
                          LongHeadsSettings s;
                          s.chunk = reader.integer("chunk", s.chunk, 1, 1 << 20);
                          s.window = reader.integer("window", s.window, 1);
                          require(s.window % s.chunk == 0 && s.chunks() >= 3,
                                  "{}: window = {}: three or more chunks of {} tokens are accepted", reader.owner(),
                                  s.window, s.chunk);
                          return [s](const LayerContext&) { return std::make_unique<LongHeads>(s); };
                        });
  row.at_budget = [](int64_t budget) {
    const int64_t chunk = std::clamp<int64_t>(budget / 16, 1, 256);
    return nlohmann::json{{"chunk", chunk}, {"window", std::max<int64_t>(3, budget / chunk) * chunk}};
  };
  row.tight = {{"chunk", 8}, {"window", 40}};
  row.chunk_invariant = true;
  return row;
}

}  // namespace rows
}  // namespace heed::cache
