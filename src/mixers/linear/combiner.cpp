// Full attention by conditional expectation: every token sees its own span directly, and all others through a key and
// a value that sum each of them up.
#include "heed/attention.h"
#include "heed/error.h"
#include "heed/nn/partial.h"
#include "mixers/linear/axial_mixture.h"
#include "mixers/linear/dyadic_regions.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using linear::RegionSummaries;
using torch::Tensor;

struct CombinerConfig {
  int64_t span = 128;
  std::string form = "fixed";  ///< axial: spans are rows, each summed up anew for every column; mixture: rows and
                               ///< columns; logsparse: spans of 1, 2, 4, ... tokens
  std::string pool = "max", pool_map = "identity";
  bool projected_rows = false;  ///< axial: a row's key is a linear map of its values' expectation
  bool count_regions = false;   ///< logits of a region get the logarithm of its tokens
};

class Combiner final : public linear::LinearAttention {
 public:
  Combiner(const HeadsConfig& config, CombinerConfig own) : LinearAttention("combiner", config), own_(std::move(own)) {
    require(config.key_dim == config.head_dim, "combiner: key_dim = {} and head_dim = {}; equal ones are accepted",
            config.key_dim, config.head_dim);
    if (own_.form != "axial")
      pool_ = register_module("pool", linear::RegionPool(own_.pool, own_.pool_map, config.key_dim));
    if (own_.projected_rows) row_key_proj_ = project("row_key_proj", config.values(), config.keys());
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(!call.input.cu_seqlens, "combiner: cu_seqlens is not accepted");
    if (own_.form == "logsparse") return attend_by_halves(call, heads);
    if (own_.form == "mixture") return attend_axial_mixture(call, heads);
    const int64_t s = own_.span, fresh = heads.q.size(2);
    // In front: what of the running span came in earlier calls, and the finished spans' keys and values.
    const int64_t held = call.seen() % s, finished = call.seen() / s;
    auto real = call.heads_without_padding(torch::ones({call.batch(), 1, fresh, 1}, heads.q.options()));
    const auto q = continued(call, kQueries, heads.q, held), k = continued(call, kKeys, heads.k, held),
               v = continued(call, kValues, heads.v, held);
    real = continued(call, kReal, real, held);
    const int64_t n = q.size(2), spans = (n + s - 1) / s;
    const bool axial = own_.form == "axial";
    const auto regions = joined(call, axial ? row_summaries(q, k, v, real, spans) : summaries(q, k, v, real, spans));
    const auto direct = attend_directly(q, k, v, real, spans);
    const auto through = axial ? attend_columns(q, regions, finished, n) : attend_regions(q, regions, finished, n);
    if (call.carries()) {
      keep_tokens(call, n % s, q, k, v, real);
      keep_regions(call, regions, (call.seen() + fresh) / s * (axial ? s : 1));
    }
    return nn::merge(direct, through).out.narrow(2, held, fresh);
  }

 private:
  /// What sums up a block depends on all of its tokens, so a state keeps them.
  Tensor attend_by_halves(RecurrentCall& call, const Heads& heads) {
    const int64_t seen = call.seen();
    const auto all = from_the_beginning(call, heads);
    const double scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    return linear::attend_dyadic(all.q, all.k, all.v, all.real, seen, {scale, causal_, own_.count_regions, pool_});
  }

  /// Columns run through all rows, so a state keeps their tokens, and of finished rows what sums up their sides.
  Tensor attend_axial_mixture(RecurrentCall& call, const Heads& heads) {
    const int64_t s = own_.span, seen = call.seen(), fresh = heads.q.size(2), first = seen / s;
    const auto all = from_the_beginning(call, heads);
    const int64_t rows = (seen + fresh + s - 1) / s;
    const linear::TokenGrid grid{by_span(all.q, rows), by_span(all.k, rows), by_span(all.v, rows),
                                 by_span(all.real, rows)};
    if (rows == first) return heads.v;
    auto sides = linear::row_sides(grid.rows_from(first), pool_);
    for (auto* t : {&sides.keys, &sides.values, &sides.counts}) *t = t->flatten(2, 4);
    sides = joined(call, sides);
    if (call.carries()) keep_regions(call, sides, (seen + fresh) / s * 2 * s);
    for (auto* t : {&sides.keys, &sides.values, &sides.counts}) *t = t->unflatten(2, {rows, 2, s});
    const auto out = linear::attend_mixture(grid, sides, first, pool_, {causal_, own_.count_regions});
    return out.flatten(2, 3).narrow(2, seen - first * s, fresh);
  }

  /// q, k, v and what is real of all tokens so far, which stay in the slots.
  linear::TokenGrid from_the_beginning(RecurrentCall& call, const Heads& heads) const {
    const int64_t seen = call.seen();
    const auto real = call.heads_without_padding(torch::ones({call.batch(), 1, heads.q.size(2), 1}, heads.q.options()));
    const linear::TokenGrid all{continued(call, kQueries, heads.q, seen), continued(call, kKeys, heads.k, seen),
                                continued(call, kValues, heads.v, seen), continued(call, kReal, real, seen)};
    if (call.carries()) keep_tokens(call, all.q.size(2), all.q, all.k, all.v, all.real);
    return all;
  }

  static constexpr size_t kQueries = 0, kKeys = 1, kValues = 2, kReal = 3, kRegionKeys = 4, kRegionValues = 5,
                          kRegionCounts = 6;

  static Tensor continued(RecurrentCall& call, size_t slot, const Tensor& t, int64_t held) {
    return held > 0 ? torch::cat({call.slot(slot), t}, 2) : t;
  }

  /// [B, H, spans, s, D], zeros behind the last token.
  Tensor by_span(const Tensor& t, int64_t spans) const {
    return torch::constant_pad_nd(t, {0, 0, 0, spans * own_.span - t.size(2)}).unflatten(2, {spans, own_.span});
  }

  /// Of every span: its key, the softmax expectation of its values under its query, and its real tokens.
  RegionSummaries summaries(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real, int64_t spans) {
    const auto there = by_span(real, spans), keys = by_span(k, spans);
    const auto query = pool_->queries(by_span(q, spans), there).unsqueeze(3);
    const double scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    auto logits = (keys * query).sum(-1, true) * scale;
    logits = logits.masked_fill(there == 0, std::numeric_limits<float>::lowest());
    const auto weights = torch::softmax(logits, 3) * there;
    return {pool_->keys(keys, there), (weights * by_span(v, spans)).sum(3), there.sum(3)};
  }

  /// Of every place of a row: the expectations of the row's keys and values under the place's query, all of the row
  /// included, and how many tokens the row has. Where no token stands the query is 0. [B, H, spans * s, D].
  RegionSummaries row_summaries(const Tensor& given, const Tensor& k, const Tensor& v, const Tensor& real,
                                int64_t spans) {
    const auto there = by_span(real, spans).sum(3, true).expand({-1, -1, -1, own_.span, -1}).flatten(2, 3);
    const auto q = given.masked_fill(real == 0, 0);
    if (own_.projected_rows) {
      const auto values = within_spans(q, k, v, real, spans, false).out;
      return {split_heads(row_key_proj_(join_heads(values)), config_.heads), values, there};
    }
    const auto all = within_spans(q, k, torch::cat({k, v}, 3), real, spans, false).out;
    const auto parts = all.split_with_sizes({k.size(3), v.size(3)}, 3);
    return {parts[0], parts[1], there};
  }

  /// What is added to the logits of regions of `counts` tokens [.., 1, regions]: -inf where `hidden`, and of empty
  /// ones.
  Tensor region_bias(const Tensor& counts, const Tensor& hidden) const {
    const auto of_count = own_.count_regions ? counts.clamp_min(1).log() : torch::zeros_like(counts);
    const auto bias = of_count.masked_fill(hidden | counts.eq(0), -INFINITY);
    return bias.to(bias.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32).contiguous();
  }

  /// Token (r, l) sees what sums up the rows before r at place l; all rows but r without causal.
  AttentionResult attend_columns(const Tensor& q, const RegionSummaries& regions, int64_t finished, int64_t n) const {
    const int64_t s = own_.span, rows = regions.keys.size(2) / s, own = (n + s - 1) / s;
    const auto columns = [&](const Tensor& t) {
      return t.unflatten(2, {-1, s}).permute({0, 3, 1, 2, 4}).flatten(0, 1);  // [B s, H, rows, D]
    };
    const auto row = torch::arange(own).unsqueeze(1) + finished, all = torch::arange(rows).unsqueeze(0);
    const auto hidden = causal_ ? all >= row : all == row;
    const auto counts = columns(regions.counts).select(3, 0).unsqueeze(2);  // [B s, 1, 1, rows]
    AttentionOptions options;
    options.bias = region_bias(counts, hidden);
    const auto padded = by_span(q, own).flatten(2, 3);
    const auto result = attention_with_lse(columns(padded), columns(regions.keys), columns(regions.values), options);
    const auto back = [&](const Tensor& t) {
      // [B s, H, own, ...] -> [B, H, own * s, ...]
      return t.unflatten(0, {-1, s}).movedim(1, 3).flatten(2, 3).narrow(2, 0, n);
    };
    return {back(result.out), back(result.lse)};
  }

  AttentionResult attend_directly(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real,
                                  int64_t spans) const {
    const int64_t n = q.size(2);
    const auto all = within_spans(q, k, v, real, spans, causal_);
    return {all.out.narrow(2, 0, n), all.lse.narrow(2, 0, n)};
  }

  /// Attention inside spans; each is a sequence of its own. [B, H, spans * s, D] and its lse.
  AttentionResult within_spans(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real, int64_t spans,
                               bool causal) const {
    const auto rows = [&](const Tensor& t) { return by_span(t, spans).transpose(1, 2).flatten(0, 1); };
    AttentionOptions options;
    if (causal) options.mask = Causal{};
    const auto there = rows(real).squeeze(1).squeeze(-1);
    options.k_documents = (there - 1).to(torch::kInt32);
    options.q_documents = torch::zeros({there.size(0), own_.span}, torch::kInt32);
    const auto result = attention_with_lse(rows(q), rows(k), rows(v), options);
    const auto back = [&](const Tensor& t) { return t.unflatten(0, {-1, spans}).transpose(1, 2).flatten(2, 3); };
    return {back(result.out), back(result.lse)};
  }

  /// Token i of a span that stands behind `finished` others sees the regions before its own; all but its own without
  /// causal.
  AttentionResult attend_regions(const Tensor& q, const RegionSummaries& regions, int64_t finished, int64_t n) const {
    const auto& [keys, values, counts] = regions;
    const auto own = torch::arange(n).div(own_.span, "floor") + finished, all = torch::arange(keys.size(2));
    const auto hidden = causal_ ? all.unsqueeze(0) >= own.unsqueeze(1) : all.unsqueeze(0) == own.unsqueeze(1);
    AttentionOptions options;
    options.bias = region_bias(counts.squeeze(-1).unsqueeze(2), hidden);
    return attention_with_lse(q, keys, values, options);
  }

  /// The summaries of earlier calls in front of those of this one.
  static RegionSummaries joined(RecurrentCall& call, const RegionSummaries& fresh) {
    const auto join = [&](size_t slot, const Tensor& t) {
      const auto& before = call.slot(slot);
      return before.defined() ? torch::cat({before, t}, 2) : t;
    };
    return {join(kRegionKeys, fresh.keys), join(kRegionValues, fresh.values), join(kRegionCounts, fresh.counts)};
  }

  static void keep_tokens(RecurrentCall& call, int64_t last, const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& real) {
    const auto kept = [&](const Tensor& t) { return t.narrow(2, t.size(2) - last, last).clone(); };
    call.slot(kQueries) = kept(q), call.slot(kKeys) = kept(k), call.slot(kValues) = kept(v);
    call.slot(kReal) = kept(real);
  }

  static void keep_regions(RecurrentCall& call, const RegionSummaries& regions, int64_t first) {
    const auto kept = [&](const Tensor& t) { return t.narrow(2, 0, first).clone(); };
    call.slot(kRegionKeys) = kept(regions.keys), call.slot(kRegionValues) = kept(regions.values);
    call.slot(kRegionCounts) = kept(regions.counts);
  }

  CombinerConfig own_;
  linear::RegionPool pool_{nullptr};
  torch::nn::Linear row_key_proj_{nullptr};
};

}  // namespace

RegistryRow rows::combiner() {
  return {.name = "combiner",
          .family = "linear_and_recurrent",
          .paper = "Combiner (arXiv 2107.05768)",
          .year = 2021,
          .patterns = {true, true, false, false},
          .step = true,
          .one_way = true,
          .core = true,
          .cost = "O(N sqrt N), O(N log N) logsparse",
          .parameters = linear::drop_in_parameters(
              {{"span", 128, "tokens of a span"},
               {"form", "fixed",
                "fixed (a span has one sum), axial (one for each place), mixture (rows and "
                "columns of a grid `span` wide; steps keep the sequence) or logsparse "
                "(spans of 1, 2, 4, ...; steps keep the sequence)"},
               {"pool", "max", "of the keys and queries of a region: max, mean or sum"},
               {"pool_map", "identity",
                "of keys and queries before they are pooled: identity, relu or deepset "
                "(relu behind a learned matrix)"},
               {"row_keys", "weighted",
                "of axial: the expectation of a row's keys, or projected from that of its "
                "values"},
               {"count_regions", false, "a region's logit gets the logarithm of its tokens"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"span", 6}},
          .make = linear::drop_in_maker("combiner", [](const HeadsConfig& config, ConfigReader& reader) {
            CombinerConfig own;
            own.span = reader.integer("span", own.span, 1, 1 << 20);
            own.form = reader.choice("form", own.form, {"fixed", "axial", "mixture", "logsparse"});
            own.pool = reader.choice("pool", own.pool, {"max", "mean", "sum"});
            own.pool_map = reader.choice("pool_map", own.pool_map, {"identity", "relu", "deepset"});
            const auto row_keys = reader.choice("row_keys", "weighted", {"weighted", "projected"});
            own.projected_rows = row_keys == "projected";
            own.count_regions = reader.get("count_regions", false);
            require(own.form != "axial" || (own.pool == "max" && own.pool_map == "identity"),
                    "combiner: pool = {}, pool_map = {} with form axial, which pools nothing", own.pool, own.pool_map);
            require(own.form == "axial" || !own.projected_rows,
                    "combiner: row_keys = {} with form {}; form axial alone has keys of rows", row_keys, own.form);
            return std::make_shared<Combiner>(config, own);
          })};
}

}  // namespace heed
