// TokenSelect (arXiv 2411.02886): single tokens that all heads of a layer vote for; similar queries share a choice.
#include "cache/policies/token_select.h"

#include "cache/rows.h"

namespace heed::cache {

using torch::Tensor;

Tensor token_votes(const Tensor& q, const ops::CacheTensors& cache, int64_t begin, int64_t end, double scale) {
  ops::SlotScoreOptions options;
  options.begin = begin;
  options.exclude_last = cache.lengths.max().item<int64_t>() - end;
  options.scale = scale;
  options.softmax = true;
  options.heads = kernels::HeadReduction::sum;
  options.all_heads = true;
  return ops::slot_scores(q, cache, options).slice(3, begin, end).contiguous();
}

namespace {

struct TokenSelectSettings {
  int64_t sinks = 128, window = 512, budget = 2048, chunk = 512, width = 1;
  double threshold = 0.9, vote_scale = 1;
};

/// Slots are places in the text. Keys are kept unrotated; what is read stands at its rank among what is read. Votes are
/// asked as if all candidates stood right before the window.
class TokenSelect : public LayerCache {
 public:
  explicit TokenSelect(const TokenSelectSettings& settings) : s_(settings) {}
  int64_t policy_bytes() const override { return chosen_.defined() ? int64_t(chosen_.nbytes() + voters_.nbytes()) : 0; }

 protected:
  bool keeps_unrotated() const override { return true; }

  Tensor attend_chunk(const Chunk& chunk) override {
    return attend_in_parts(chunk, s_.chunk, [&](int64_t at, int64_t n) { return attend_part(chunk, at, n); });
  }

  Tensor attend_step(const Chunk& chunk) override {
    auto options = decode_options(chunk);
    const bool all = covers(1, seen());
    if (!all) choose(chunk);
    const auto slots = all ? Tensor() : listed(chosen_, 1, seen());
    const int64_t read = all ? seen() : slots.size(2);
    options.rotation = rotation_on_read(chunk, read);
    const auto q = rotate_query(chunk, chunk.q, torch::arange(read - 1, read));
    return decode(q, all ? everything() : gathered(slots), options).out;
  }

 private:
  /// The first query of n that end at `end` sees `window` tokens, its own included; candidates are those before.
  int64_t candidates_end(int64_t n, int64_t end) const { return end - n - s_.window + 1; }
  bool covers(int64_t n, int64_t end) const { return s_.sinks + s_.budget >= candidates_end(n, end); }

  /// The tokens chosen for q [B, Hq, n, D] that ends at `end`: int32 [B, 1, budget].
  Tensor vote(const Chunk& chunk, const Tensor& q, const ops::CacheTensors& cache, int64_t end) {
    const int64_t n = q.size(2);
    const auto voters = rotate(chunk, q, torch::arange(n) + s_.window).mean(2, true);
    auto votes = token_votes(voters, cache, s_.sinks, candidates_end(n, end), s_.vote_scale);
    if (s_.width > 1) votes = ops::pool(votes, s_.width, kernels::PoolParams::Kind::max);
    return ops::top_k(votes, s_.budget).squeeze(2) + static_cast<int32_t>(s_.sinks);
  }

  /// All that n queries which end at `end` read, int32 [B, Hkv, slots].
  Tensor listed(const Tensor& chosen, int64_t n, int64_t end) const {
    const auto range = [&](int64_t from, int64_t to) {
      return torch::arange(from, to, torch::kInt32).expand({chosen.size(0), 1, to - from});
    };
    const auto slots = torch::cat({range(0, s_.sinks), chosen, range(candidates_end(n, end), end)}, 2);
    return slots.expand({-1, kv_.heads(), -1}).contiguous();
  }

  /// Renews the choice of the sequences whose query has turned away from the one that chose.
  void choose(const Chunk& chunk) {
    const auto asked = chunk.q.flatten(1).to(torch::kFloat32);
    if (!chosen_.defined()) {
      chosen_ = torch::full({asked.size(0), 1, s_.budget}, -1, torch::kInt32);
      voters_ = torch::zeros_like(asked);
    }
    const auto alike = torch::cosine_similarity(asked, voters_, 1);
    for (int64_t b = 0; b < asked.size(0); ++b) {
      const bool renew = chosen_[b][0][0].item<int32_t>() < 0 || !(alike[b].item<float>() >= s_.threshold);
      if (!renew) continue;
      chosen_.narrow(0, b, 1).copy_(vote(chunk, chunk.q.narrow(0, b, 1), everything().sequence(b), seen()));
      voters_[b].copy_(asked[b]);
      count_scored((candidates_end(1, seen()) - s_.sinks) * kv_.heads());
    }
  }

  /// Queries [at, at + n) of the chunk under one choice.
  Tensor attend_part(const Chunk& chunk, int64_t at, int64_t n) {
    const int64_t end = chunk.first + at + n;
    const auto q = chunk.q.narrow(2, at, n);
    auto k = kv_.keys().narrow(2, 0, end), v = kv_.values().narrow(2, 0, end);
    if (!covers(n, end)) {
      const auto slots = listed(vote(chunk, q, everything(), end), n, end).to(torch::kInt64).unsqueeze(3);
      k = k.gather(2, slots.expand({-1, -1, -1, k.size(3)}));
      v = v.gather(2, slots.expand({-1, -1, -1, v.size(3)}));
    }
    const auto ranks = torch::arange(k.size(2));
    auto options = chunk.call.options;
    options.mask = Causal{};
    return attention(rotate(chunk, q, ranks.slice(0, k.size(2) - n)), rotate(chunk, k, ranks), v, options);
  }

  TokenSelectSettings s_;
  Tensor chosen_;  // int32 [B, 1, budget], of decode steps
  Tensor voters_;  // float [B, Hq * D]: the unrotated queries that chose
};

}  // namespace

namespace rows {

PolicyRow token_select() {
  auto row = policy_row(
      "token_select", "arXiv 2411.02886", 2024, "N scored + sinks + budget + window read; N held",
      {{"sinks", 128, "first tokens that are always read"},
       {"window", 512, "recent tokens that are always read, the own one included"},
       {"budget", 2048, "tokens chosen between them"},
       {"chunk", 512, "tokens of the prompt that share a choice"},
       {"threshold", 0.9, "cosine to the query that chose, from which on a step reuses its choice; above 1: never"},
       {"width", 1, "of the max pooling of votes, odd"},
       {"vote_scale", 1.0, "multiplies the products that vote"}},
      [](ConfigReader& reader, const ModelShape&) -> Policy {
        TokenSelectSettings s;
        s.sinks = reader.integer("sinks", s.sinks, 0);
        s.window = reader.integer("window", s.window, 1);
        s.budget = reader.integer("budget", s.budget, 1, 1 << 30);
        s.chunk = reader.integer("chunk", s.chunk, 1);
        s.threshold = reader.get("threshold", s.threshold);
        s.width = reader.integer("width", s.width, 1, 1 << 20);
        s.vote_scale = reader.get("vote_scale", s.vote_scale);
        require(s.width % 2 == 1, "{}: width = {}: an odd number is accepted", reader.owner(), s.width);
        require(s.vote_scale > 0, "{}: vote_scale = {}: a number above 0 is accepted", reader.owner(), s.vote_scale);
        return [s](const LayerContext&) { return std::make_unique<TokenSelect>(s); };
      });
  row.at_budget = [](int64_t budget) {
    const int64_t sinks = std::min<int64_t>(128, budget / 16), window = std::max<int64_t>(1, budget / 4);
    return nlohmann::json{
        {"sinks", sinks}, {"window", window}, {"budget", std::max<int64_t>(1, budget - sinks - window)}};
  };
  row.tight = {{"sinks", 4}, {"window", 17}, {"budget", 20}, {"chunk", 32}};
  return row;
}

}  // namespace rows
}  // namespace heed::cache
