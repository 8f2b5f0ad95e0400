// Tokens merged with those they resemble, or dropped by what they are worth (arXiv 2210.09461, 2505.18227).
#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/nn/config.h"
#include "heed/nn/generator.h"
#include "nn/reducer_list.h"

namespace heed::nn {
namespace {

using torch::Tensor;

struct MergingConfig {
  std::string action = "merge", score = "received";
  int64_t count = 8;
  double share = 0;
  bool decreasing = false, adjacent = false;
};

/// Keys of every item in descending order, ties to the lower index.
Tensor descending(const Tensor& x) { return std::get<1>(x.sort(c10::optional<bool>(true), 1, true)); }

class TokenMerging final : public TokenReducer {
 public:
  explicit TokenMerging(const MergingConfig& config) : config_(config) {}

  std::string wanted_scores() const override {
    return config_.action != "merge" && (config_.score == "class" || config_.score == "received") ? config_.score
                                                                                                  : "none";
  }

  TokenMap map(const ReductionInput& in) override {
    require(in.x.dim() == 3, "token_merging: x of {} dimensions: [batch, tokens, channels] is accepted", in.x.dim());
    const int64_t batch = in.x.size(0), n = in.x.size(1);
    const auto fits = [&](const Tensor& t, const char* what) {
      require(!t.defined() || (t.size(0) == batch && t.size(1) == n),
              "token_merging: {} of shape {}: [{}, {}] is accepted", what, t.defined() ? c10::str(t.sizes()) : "",
              batch, n);
    };
    fits(in.metric, "metric"), fits(in.scores, "scores"), fits(in.sizes, "sizes"), fits(in.padding, "padding");
    require(in.leading >= 0 && in.leading <= n, "token_merging: {} leading tokens of {}", in.leading, n);
    torch::NoGradGuard no_grad;
    const auto type = in.x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    auto sizes = in.sizes.defined() ? in.sizes.to(type) : torch::ones({batch, n}, type);
    if (in.padding.defined()) sizes = sizes.masked_fill(in.padding, 0);
    const int64_t wanted = count_of(in, n);
    if (wanted == 0) return every_token(batch, n, sizes, in.padding);
    auto reduced = config_.action == "merge" ? merged(in, sizes, wanted) : pruned(in, sizes, wanted);
    if (in.padding.defined()) reduced.hidden = reduced.sizes == 0;
    return reduced;
  }

 private:
  int64_t count_of(const ReductionInput& in, int64_t n) const {
    double count = config_.share > 0 ? config_.share * double(n - in.leading) : double(config_.count);
    if (config_.decreasing) count *= in.layers > 1 ? 2 - 2 * double(in.layer) / double(in.layers - 1) : 1;
    const int64_t most = config_.action == "merge" ? (n - in.leading) / 2 : n - in.leading;
    return std::clamp<int64_t>(std::llround(count), 0, most);
  }

  /// Each even token is linked to the odd one that it is most like; the best links merge.
  TokenMap merged(const ReductionInput& in, const Tensor& sizes, int64_t wanted) const {
    const int64_t batch = sizes.size(0), n = sizes.size(1);
    const auto metric = in.metric.defined() ? in.metric : in.x;
    const auto unit = metric / metric.norm(2, 2, true).clamp_min(1e-12);
    const auto places = torch::arange(n), kept_places = places >= in.leading;
    const auto even = (places % 2 == 0).nonzero().squeeze(1), odd = (places % 2 == 1).nonzero().squeeze(1);
    auto likeness =
        torch::matmul(unit.index_select(1, even), unit.index_select(1, odd).transpose(1, 2)).to(torch::kFloat32);
    auto closed = (kept_places.index_select(0, even).unsqueeze(1) & kept_places.index_select(0, odd)).logical_not();
    if (config_.adjacent) closed = closed | (even.unsqueeze(1) + 1 != odd);
    auto hidden = closed.unsqueeze(0);
    if (in.padding.defined()) hidden = hidden | in.padding.index_select(1, odd).unsqueeze(1);
    auto [best, partner] = likeness.nan_to_num(-2).masked_fill(hidden, -INFINITY).max(2);
    // Padding goes first, wherever: it has no weight.
    if (in.padding.defined())
      best = best.masked_fill(in.padding.index_select(1, even) & kept_places.index_select(0, even), INFINITY);
    const int64_t links = std::min(wanted, (best > -INFINITY).sum(1).min().item<int64_t>());
    if (links == 0) return every_token(batch, n, sizes, in.padding);

    const auto order = descending(best);
    const auto gone = torch::zeros({batch, n}, torch::kBool);
    gone.scatter_(1, even.index_select(0, order.narrow(1, 0, links).flatten()).view({batch, links}), true);
    // What stays: leading tokens, even ones, odd ones, each in its order; neighbours that merge keep their order.
    auto rank = places.expand({batch, n});
    if (!config_.adjacent) rank = rank + torch::where(kept_places, (places % 2) * n + n, torch::zeros_like(places));
    const auto kept = std::get<1>(rank.masked_fill(gone, 4 * n).sort(1)).narrow(1, 0, n - links).contiguous();
    auto map = kept_tokens(kept, sizes);
    const auto becomes = map.target.gather(1, odd.index_select(0, partner.flatten()).view_as(partner));
    const auto now = map.target.index_select(1, even);
    map.target.index_copy_(1, even, torch::where(gone.index_select(1, even), becomes, now));
    map.sizes = torch::zeros({batch, map.tokens}, sizes.options()).scatter_add_(1, map.target, sizes);
    map.weight = sizes / map.sizes.gather(1, map.target).clamp_min(1e-12);
    // A token of padding alone is the token itself.
    const auto alone = map.sizes.gather(1, map.target) == 0;
    const auto represents = map.positions.gather(1, map.target) == places;
    map.weight = torch::where(alone, represents.to(map.weight.scalar_type()), map.weight);
    return map;
  }

  Tensor worth(const ReductionInput& in) const {
    if (config_.score == "random") return torch::rand({in.x.size(0), in.x.size(1)}, seeded_generator(in.seed));
    if (config_.score == "key_norm") return (in.metric.defined() ? in.metric : in.x).norm(2, 2).to(torch::kFloat32);
    require(in.scores.defined(), "token_merging: scores of kind {} are to be given", config_.score);
    return in.scores.to(torch::kFloat32);
  }

  /// The tokens that are worth least are dropped, or become one token more, their mean by worth.
  TokenMap pruned(const ReductionInput& in, const Tensor& sizes, int64_t wanted) const {
    const int64_t n = sizes.size(1);
    const auto value = worth(in).to(sizes.scalar_type());
    auto ranked = value.clone();
    if (in.padding.defined()) ranked = ranked.masked_fill(in.padding, -INFINITY);
    ranked.slice(1, 0, in.leading).fill_(INFINITY);
    const auto order = descending(ranked);
    const auto kept = std::get<0>(order.narrow(1, 0, n - wanted).sort(1)).contiguous();
    auto map = kept_tokens(kept, sizes);
    if (config_.action == "drop") return map;
    const auto dropped = map.target < 0;
    auto share = (value.clamp_min(0) * sizes).masked_fill(dropped.logical_not(), 0);
    // Where nothing that is dropped is worth anything, a plain mean.
    share = torch::where(share.sum(1, true) > 0, share, sizes.masked_fill(dropped.logical_not(), 0));
    map.weight = torch::where(dropped, share / share.sum(1, true).clamp_min(1e-12), map.weight);
    map.target = map.target.masked_fill(dropped, map.tokens);
    map.sizes = torch::cat({map.sizes, sizes.masked_fill(dropped.logical_not(), 0).sum(1, true)}, 1);
    const auto last = torch::where(dropped, torch::arange(n), torch::full({}, -1, torch::kInt64)).amax(1, true);
    map.positions = torch::cat({map.positions, last}, 1);
    ++map.tokens;
    return map;
  }

  MergingConfig config_;
};

std::shared_ptr<TokenReducer> make(const nlohmann::json& json) {
  ConfigReader reader("token_merging", json);
  MergingConfig c;
  c.action = reader.choice("action", c.action, {"merge", "drop", "fuse"});
  c.score = reader.choice("score", c.score, {"received", "class", "key_norm", "random"});
  c.count = reader.integer("count", c.count, 0);
  c.share = reader.get("share", c.share);
  require(c.share >= 0 && c.share <= 1, "token_merging: share = {}: 0 to 1 is accepted", c.share);
  c.decreasing = reader.get("decreasing", false);
  c.adjacent = reader.get("adjacent", false);
  require(!c.adjacent || c.action == "merge", "token_merging: adjacent with action {}: merge is accepted", c.action);
  reader.finish();
  return std::make_shared<TokenMerging>(c);
}

}  // namespace

Reducer token_merging() {
  RegistryRow row;
  row.name = "token_merging";
  row.kind = Kind::reducer;
  row.family = "sparse_and_vision";
  row.paper =
      "Token Merging (arXiv 2210.09461); Token Reduction Should Go Beyond Efficiency in Generative Models (arXiv "
      "2505.18227)";
  row.year = 2022;
  row.patterns.noncausal_self = row.patterns.causal_self = true;
  row.training_free = true;
  row.cost = "O(N^2 / 4)";
  row.parameters = {{"action", "merge", "merge: tokens with those they are like; drop; fuse: into one token more"},
                    {"count", 8, "tokens less a layer"},
                    {"share", 0.0, "above 0: in place of count, a share of the tokens there are"},
                    {"decreasing", false, "from twice the count in the first layer to none in the last"},
                    {"adjacent", false, "neighbours alone merge, into the later place: for causal models"},
                    {"score", "received", "of drop and fuse: received, class (attention), key_norm, random"}};
  return {row, make};
}

}  // namespace heed::nn
