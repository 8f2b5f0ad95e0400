// Full attention by conditional expectation: every token sees its own span directly, and all others through a key and
// a value that sum each of them up.
#include "heed/attention.h"
#include "heed/error.h"
#include "heed/nn/partial.h"
#include "mixers/linear/dyadic_regions.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct CombinerConfig {
  int64_t span = 128;
  std::string form = "fixed";  ///< axial: spans are rows, each summed up anew for every column; logsparse: spans of
                               ///< 1, 2, 4, ... tokens
  std::string pool = "max";
  bool count_regions = false;  ///< logits of a region get the logarithm of its tokens
};

class Combiner final : public linear::LinearAttention {
 public:
  Combiner(const HeadsConfig& config, CombinerConfig own) : LinearAttention("combiner", config), own_(std::move(own)) {
    require(config.key_dim == config.head_dim, "combiner: key_dim = {} and head_dim = {}; equal ones are accepted",
            config.key_dim, config.head_dim);
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(!call.input.cu_seqlens, "combiner: cu_seqlens is not accepted");
    if (own_.form == "logsparse") return attend_by_halves(call, heads);
    const int64_t s = own_.span, fresh = heads.q.size(2);
    // In front: what of the running span came in earlier calls, and the finished spans' keys and values.
    const int64_t held = call.seen() % s, finished = call.seen() / s;
    auto real = call.heads_without_padding(torch::ones({call.batch(), 1, fresh, 1}, heads.q.options()));
    const auto q = continued(call, kQueries, heads.q, held), k = continued(call, kKeys, heads.k, held),
               v = continued(call, kValues, heads.v, held);
    real = continued(call, kReal, real, held);
    const int64_t n = q.size(2), spans = (n + s - 1) / s;
    const bool axial = own_.form == "axial";
    const auto [span_keys, span_values, span_counts] =
        axial ? row_summaries(q, k, v, real, spans) : summaries(q, k, v, real, spans);
    const auto joined = [&](size_t slot, const Tensor& t) {
      const auto& before = call.slot(slot);
      return before.defined() ? torch::cat({before, t}, 2) : t;
    };
    const auto region_keys = joined(kRegionKeys, span_keys), region_values = joined(kRegionValues, span_values),
               region_counts = joined(kRegionCounts, span_counts);

    const auto direct = attend_directly(q, k, v, real, spans);
    const auto regions = axial ? attend_columns(q, region_keys, region_values, region_counts, finished, n)
                               : attend_regions(q, region_keys, region_values, region_counts, finished, n);
    if (call.carries()) keep(call, n, q, k, v, real, region_keys, region_values, region_counts);
    return nn::merge(direct, regions).out.narrow(2, held, fresh);
  }

 private:
  /// What sums up a block depends on all of its tokens, so a state keeps them.
  Tensor attend_by_halves(RecurrentCall& call, const Heads& heads) const {
    const int64_t seen = call.seen();
    auto real = call.heads_without_padding(torch::ones({call.batch(), 1, heads.q.size(2), 1}, heads.q.options()));
    const auto q = continued(call, kQueries, heads.q, seen), k = continued(call, kKeys, heads.k, seen),
               v = continued(call, kValues, heads.v, seen);
    real = continued(call, kReal, real, seen);
    if (call.carries()) call.slot(kQueries) = q, call.slot(kKeys) = k, call.slot(kValues) = v, call.slot(kReal) = real;
    const double scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    const auto pool = [this](const Tensor& t, const Tensor& there) { return pooled(t, there); };
    return linear::attend_dyadic(q, k, v, real, seen, {scale, causal_, own_.count_regions, pool});
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

  Tensor pooled(const Tensor& t, const Tensor& real) const {
    if (own_.pool == "max") {
      const auto top = t.masked_fill(real == 0, -INFINITY).amax(-2);
      return top.masked_fill(real.sum(-2) == 0, 0);
    }
    return (t * real).sum(-2) / real.sum(-2).clamp_min(1);
  }

  /// Of every span: its key, the softmax expectation of its values under its query, and its real tokens.
  std::tuple<Tensor, Tensor, Tensor> summaries(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real,
                                               int64_t spans) const {
    const auto there = by_span(real, spans), keys = by_span(k, spans);
    const auto query = pooled(by_span(q, spans), there).unsqueeze(3);
    const double scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    auto logits = (keys * query).sum(-1, true) * scale;
    logits = logits.masked_fill(there == 0, std::numeric_limits<float>::lowest());
    const auto weights = torch::softmax(logits, 3) * there;
    return {pooled(keys, there), (weights * by_span(v, spans)).sum(3), there.sum(3)};
  }

  /// Of every place of a row: the expectations of the row's keys and values under the place's query, all of the row
  /// included, and whether there is a token. [B, H, spans * s, D].
  std::tuple<Tensor, Tensor, Tensor> row_summaries(const Tensor& q, const Tensor& k, const Tensor& v,
                                                   const Tensor& real, int64_t spans) const {
    const auto all = within_spans(q, k, torch::cat({k, v}, 3), real, spans, false).out;
    const auto parts = all.split_with_sizes({k.size(3), v.size(3)}, 3);
    return {parts[0], parts[1], by_span(real, spans).flatten(2, 3)};
  }

  /// Token (r, l) sees what sums up the rows before r at place l; all rows but r without causal.
  AttentionResult attend_columns(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& there,
                                 int64_t finished, int64_t n) const {
    const int64_t s = own_.span, rows = keys.size(2) / s, own = (n + s - 1) / s;
    const auto columns = [&](const Tensor& t) {
      return t.unflatten(2, {-1, s}).permute({0, 3, 1, 2, 4}).flatten(0, 1);  // [B s, H, rows, D]
    };
    const auto row = torch::arange(own).unsqueeze(1) + finished, all = torch::arange(rows).unsqueeze(0);
    const auto hidden = causal_ ? all >= row : all == row;
    const auto none = columns(there).select(3, 0).eq(0).unsqueeze(2);  // [B s, 1, 1, rows]
    AttentionOptions options;
    const auto dtype = q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    options.bias = torch::zeros({1, 1, 1, 1}, dtype).masked_fill(hidden | none, -INFINITY);
    const auto padded = by_span(q, own).flatten(2, 3);
    const auto result = attention_with_lse(columns(padded), columns(keys), columns(values), options);
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
  AttentionResult attend_regions(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& counts,
                                 int64_t finished, int64_t n) const {
    const auto own = torch::arange(n).div(own_.span, "floor") + finished, all = torch::arange(keys.size(2));
    const auto hidden = causal_ ? all.unsqueeze(0) >= own.unsqueeze(1) : all.unsqueeze(0) == own.unsqueeze(1);
    // An empty region is seen by nobody.
    const auto empty = (counts.squeeze(-1) == 0).unsqueeze(2);
    auto bias = torch::zeros({1, 1, 1, 1}, keys.options());
    if (own_.count_regions) bias = counts.squeeze(-1).clamp_min(1).log().unsqueeze(2);
    bias = bias.masked_fill(hidden | empty, -INFINITY);
    AttentionOptions options;
    options.bias = bias.to(bias.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32).contiguous();
    return attention_with_lse(q, keys, values, options);
  }

  void keep(RecurrentCall& call, int64_t n, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real,
            const Tensor& region_keys, const Tensor& region_values, const Tensor& region_counts) const {
    const int64_t rest = n % own_.span, per_span = own_.form == "axial" ? own_.span : 1,
                  regions = (call.seen() + call.tokens()) / own_.span * per_span;
    const auto last = [&](const Tensor& t) { return t.narrow(2, n - rest, rest).clone(); };
    call.slot(kQueries) = last(q), call.slot(kKeys) = last(k), call.slot(kValues) = last(v);
    call.slot(kReal) = last(real);
    call.slot(kRegionKeys) = region_keys.narrow(2, 0, regions).clone();
    call.slot(kRegionValues) = region_values.narrow(2, 0, regions).clone();
    call.slot(kRegionCounts) = region_counts.narrow(2, 0, regions).clone();
  }

  CombinerConfig own_;
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
          .parameters =
              linear::heads_parameters({{"span", 128, "tokens of a span"},
                                        {"form", "fixed",
                                         "fixed (a span has one sum), axial (one for each place) or logsparse (spans "
                                         "of 1, 2, 4, ...; steps keep the sequence)"},
                                        {"pool", "max", "of the keys and queries of a span: max or mean"},
                                        {"count_regions", false, "a region's logit gets the logarithm of its tokens"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"span", 6}},
          .make = linear::heads_maker("combiner", [](const HeadsConfig& config, ConfigReader& reader) {
            CombinerConfig own;
            own.span = reader.integer("span", own.span, 1, 1 << 20);
            own.form = reader.choice("form", own.form, {"fixed", "axial", "logsparse"});
            own.pool = reader.choice("pool", own.pool, {"max", "mean"});
            own.count_regions = reader.get("count_regions", false);
            require(own.form != "axial" || (own.pool == "max" && !own.count_regions),
                    "combiner: pool = {}, count_regions = {} with form axial, which pools nothing", own.pool,
                    own.count_regions);
            return std::make_shared<Combiner>(config, own);
          })};
}

}  // namespace heed
