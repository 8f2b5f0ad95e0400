#include "heed/nn/subsample.h"

#include "heed/error.h"
#include "heed/nn/generator.h"
#include "heed/nn/keys.h"
#include "heed/nn/partial.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Tokens of an item sorted by part, in their order within one: index int64 [B, n], and the parts so sorted.
struct Sorted {
  Tensor index, parts;

  Sorted(const Tensor& of_tokens, int64_t batch) {
    const int64_t n = of_tokens.size(-1);
    const auto parts_of = of_tokens.dim() == 1 ? of_tokens.unsqueeze(0).expand({batch, n}) : of_tokens;
    index = std::get<1>(parts_of.sort(c10::optional<bool>(true), 1, false));
    parts = parts_of.gather(1, index);
  }
  Tensor gather(const Tensor& x) const {
    return gather_rows(x, index.unsqueeze(1).expand({x.size(0), x.size(1), index.size(1)}));
  }
  Tensor scatter(const Tensor& x) const {
    const auto where = index.unsqueeze(1).unsqueeze(3).expand({x.size(0), x.size(1), index.size(1), x.size(3)});
    return torch::zeros_like(x).scatter(2, where, x);
  }
  Tensor scatter_rows(const Tensor& x) const {  // [B, H, n]
    return torch::zeros_like(x).scatter(2, index.unsqueeze(1).expand_as(x), x);
  }
};

}  // namespace

Tensor subsample_parts(int64_t tokens, const SubsampleOptions& o, uint64_t seed, const Tensor& padding) {
  require(o.reduction >= 1, "subsampled attention: reduction = {}: 1 or more is accepted", o.reduction);
  require(o.leading >= 0, "subsampled attention: {} leading tokens: 0 or more is accepted", o.leading);
  auto generator = seeded_generator(seed);
  const auto places = torch::arange(tokens, torch::kFloat64);
  auto order = o.sigma < 0 ? torch::rand({tokens}, generator, torch::kFloat64)
                           : places + o.sigma * torch::randn({tokens}, generator, torch::kFloat64);
  auto outside = torch::arange(tokens) < o.leading;
  if (padding.defined()) outside = outside | padding;
  order = order.expand(outside.sizes()).masked_fill(outside, INFINITY);
  const auto sorted = std::get<1>(order.sort(c10::optional<bool>(true), -1, false));
  const auto rank =
      torch::empty_like(sorted).scatter_(-1, sorted, torch::arange(tokens).expand_as(sorted).contiguous());
  const auto inside = outside.logical_not().sum(-1, true).clamp_min(1);
  return (rank * o.reduction).div(inside, "floor").masked_fill(outside, -1);
}

Tensor subsampled_attention(const Tensor& q, const Tensor& k, const Tensor& v, AttentionOptions options,
                            const SubsampleOptions& o, bool causal, uint64_t seed, const Tensor& padding) {
  const int64_t n = q.size(2), m = k.size(2), batch = q.size(0);
  const bool self = n == m;
  require(self || !causal, "subsampled attention: {} queries and {} keys with causal: equal numbers are accepted", n,
          m);
  // Sources are drawn apart from the queries that ask them.
  auto of_queries = o;
  if (!self) of_queries.leading = 0;
  const Sorted keys(subsample_parts(m, o, seed, padding), batch);
  const Sorted queries = self ? keys : Sorted(subsample_parts(n, of_queries, seed + 1), batch);
  options.mask = causal ? Mask(Causal{}) : Mask();
  auto parts = options;
  // What is no part of the draw has no equal: ids of queries and keys differ.
  parts.q_documents = queries.parts.to(torch::kInt32);
  parts.k_documents = torch::where(keys.parts < 0, keys.parts - 1, keys.parts).to(torch::kInt32);
  const auto drawn = attention_with_lse(queries.gather(q), keys.gather(k), keys.gather(v), parts);
  const AttentionResult within{queries.scatter(drawn.out), queries.scatter_rows(drawn.lse)};
  const int64_t leading = std::min(o.leading, m);
  if (leading == 0) return within.out;

  const auto hidden = padding.defined() ? padding : torch::zeros({batch, m}, torch::kBool);
  auto first = options;
  hide_keys(first, hidden.narrow(1, 0, leading), n);
  if (causal) first.mask = Causal{Alignment::top_left};
  const auto led = attention_with_lse(q, k.narrow(2, 0, leading), v.narrow(2, 0, leading), first);
  const auto out = merge(within, led).out;
  if (!self) return out;
  auto all = options;
  hide_keys(all, hidden, leading);
  if (causal) all.mask = Causal{Alignment::top_left};
  return torch::cat({attention(q.narrow(2, 0, leading), k, v, all), out.narrow(2, leading, n - leading)}, 2);
}

}  // namespace heed::nn
