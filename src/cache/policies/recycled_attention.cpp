// Recycled Attention (arXiv 2411.05787): full steps now and then; between them, the tokens that the last one weighed
// most and those that came since.
#include "cache/budget.h"
#include "cache/rows.h"

namespace heed::cache {
namespace {

using torch::Tensor;

struct RecycledAttentionSettings {
  Budget kept{0.125};
  int64_t period = 16, check_every = 4, width = 1;
  double threshold = 0.8;
};

/// Nothing is dropped. Sequences of a batch go on for themselves: each has its own full steps.
class Recycled : public LayerCache {
 public:
  explicit Recycled(const RecycledAttentionSettings& settings) : s_(settings) {}
  int64_t policy_bytes() const override {
    int64_t bytes = last_.defined() ? int64_t(last_.nbytes() + last_asked_.nbytes()) : 0;
    for (const auto& known : known_) bytes += int64_t(known.chosen.nbytes() + known.asked.nbytes());
    return bytes;
  }

 protected:
  void after_chunk(const Chunk& chunk) override {
    last_ = chunk.q.slice(2, chunk.size() - 1).clone();
    last_asked_ = chunk.call.q.slice(2, chunk.size() - 1).clone();
    options_ = step_options(chunk);
    if (!in_prompt()) compress();
  }

  /// The row of the newest token before, whose own attention has come without weights.
  void compress() override {
    known_.resize(kv_.batch());
    const auto row = ops::decode(last_, everything(), options_).column_sum;
    for (int64_t b = 0; b < kv_.batch(); ++b) learn(b, last_asked_.narrow(0, b, 1), row.narrow(0, b, 1));
    last_.reset();
    last_asked_.reset();
  }

  Tensor attend_step(const Chunk& chunk) override {
    ++step_;
    std::vector<Tensor> outs;
    for (int64_t b = 0; b < kv_.batch(); ++b) {
      const auto q = chunk.q.narrow(0, b, 1), asked = chunk.call.q.narrow(0, b, 1);
      auto options = step_options(chunk);
      if (wants_full(b, asked)) {
        const auto result = decode(q, everything().sequence(b), options);
        learn(b, asked, result.column_sum);
        outs.push_back(result.out);
      } else {
        options.column_sum = false;
        outs.push_back(decode(q, gathered(recycled(b)).sequence(b), options).out);
      }
    }
    return outs.size() == 1 ? outs[0] : torch::cat(outs, 0);
  }

 private:
  /// What a sequence knows from its last full step.
  struct Known {
    Tensor chosen;     ///< int32 [1, Hkv, kept]
    Tensor asked;      ///< [1, Hq, 1, D], not rotated: similarity is not a matter of place
    int64_t seen = 0;  ///< tokens then
  };

  static ops::DecodeOptions step_options(const Chunk& chunk) {
    auto options = decode_options(chunk);
    options.column_sum = true;
    return options;
  }

  bool wants_full(int64_t b, const Tensor& asked) const {
    if (step_ % s_.period == 0) return true;
    if (step_ % s_.check_every != 0) return false;
    const auto alike = torch::cosine_similarity(asked.to(torch::kFloat32), known_[b].asked.to(torch::kFloat32), 3);
    return !(alike.mean().item<double>() >= s_.threshold);
  }

  /// row float [1, Hq, slots]: the weights of a query that saw everything.
  void learn(int64_t b, const Tensor& asked, const Tensor& row) {
    auto scores = row.unflatten(1, {kv_.heads(), -1}).mean(2).unsqueeze(2).contiguous();
    if (s_.width > 1) scores = ops::pool(scores, s_.width, kernels::PoolParams::Kind::max);
    auto& known = known_[b];
    if (kept_ == 0) kept_ = std::max<int64_t>(1, s_.kept.tokens(seen()));
    known.chosen = ops::top_k(scores, kept_).squeeze(2);
    known.asked = asked.clone();
    known.seen = seen();
  }

  /// int32 [B, Hkv, slots] of which only sequence b's lists are filled.
  Tensor recycled(int64_t b) const {
    const auto& known = known_[b];
    const auto since = torch::arange(known.seen, seen(), torch::kInt32).expand({1, kv_.heads(), seen() - known.seen});
    return torch::cat({known.chosen, since}, 2).expand({kv_.batch(), -1, -1});
  }

  RecycledAttentionSettings s_;
  std::vector<Known> known_;  // a sequence
  int64_t step_ = 0;          // since the prompt
  int64_t kept_ = 0;          // decided by the length of the prompt
  Tensor last_, last_asked_;  // the newest query [B, Hq, 1, D], rotated and not, until its row is known
  ops::DecodeOptions options_;
};

}  // namespace

namespace rows {

PolicyRow recycled_attention() {
  auto row = policy_row(
      "recycled_attention", "arXiv 2411.05787", 2024, "N / period + kept read; N held",
      {{"kept", 0.125, "tokens that are recycled; below 1: a share of the prompt"},
       {"period", 16, "every so many steps read everything"},
       {"check_every", 4, "steps between looks at whether the query has turned away"},
       {"threshold", 0.8, "mean cosine to the query of the last full step below which a look makes a full step"},
       {"width", 1, "of the max pooling of weights, odd"}},
      [](ConfigReader& reader, const ModelShape&) -> Policy {
        RecycledAttentionSettings s;
        s.kept = Budget::read(reader, "kept", s.kept.amount);
        s.period = reader.integer("period", s.period, 1);
        s.check_every = reader.integer("check_every", s.check_every, 1);
        s.threshold = reader.get("threshold", s.threshold);
        s.width = reader.integer("width", s.width, 1, 1 << 20);
        require(s.width % 2 == 1, "{}: width = {}: an odd number is accepted", reader.owner(), s.width);
        return [s](const LayerContext&) { return std::make_unique<Recycled>(s); };
      });
  row.covering = {{"kept", 2000}};
  row.at_budget = [](int64_t budget) { return nlohmann::json{{"kept", budget}}; };
  row.tight = {{"kept", 20}, {"period", 5}};
  row.chunk_invariant = true;
  return row;
}

}  // namespace rows
}  // namespace heed::cache
