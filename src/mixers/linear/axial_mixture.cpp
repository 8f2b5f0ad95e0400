#include "mixers/linear/axial_mixture.h"

#include "heed/nn/partial.h"

namespace heed::linear {
namespace {

using torch::Tensor;

/// Rows as sequences of their own, [B R, H, s, ...], or columns, [B s, H, R, ...].
Tensor by_row(const Tensor& t) { return t.transpose(1, 2).flatten(0, 1); }
Tensor by_column(const Tensor& t) { return t.permute({0, 3, 1, 2, 4}).flatten(0, 1); }

/// The documents of keys that hide those that are not real, [B', L] of real [B', 1, L, 1].
Tensor hidden_documents(const Tensor& real) { return (real.squeeze(3).squeeze(1) - 1).to(torch::kInt32); }

/// Of the tokens from `first` on of sequences [B', H, L, D], what sums up the tokens before each.
RegionSummaries before(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real, RegionPool& pool,
                       int64_t first = 0) {
  // Token i reads what ends at token i - 1.
  const int64_t ends = k.size(2) - 1, begin = std::max<int64_t>(first - 1, 0);
  if (ends == 0) return {torch::zeros_like(k), torch::zeros_like(v), torch::zeros_like(real)};
  const auto up_to = [&](const Tensor& t) { return t.narrow(2, 0, ends); };
  const auto read = [&](const Tensor& t) { return t.slice(2, begin, ends); };
  AttentionOptions options;
  options.mask = Causal{};
  options.k_documents = hidden_documents(up_to(real));
  options.q_documents = torch::zeros_like(options.k_documents->slice(1, begin));
  const auto values = attention(read(pool->running_queries(q, real)), up_to(k), up_to(v), options);
  // Before the first token of all there is none.
  const auto from_first = [&](const Tensor& t) { return torch::constant_pad_nd(t, {0, 0, first == 0 ? 1 : 0, 0}); };
  return {from_first(read(pool->running_keys(k, real))), from_first(values), from_first(read(real.cumsum(2)))};
}

RegionSummaries behind(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real, RegionPool& pool) {
  const auto r = before(q.flip(2), k.flip(2), v.flip(2), real.flip(2), pool);
  return {r.keys.flip(2), r.values.flip(2), r.counts.flip(2)};
}

/// Logits that are added to those of regions [B', 1, M, 1], -inf where there are no tokens: [B', 1, 1, M].
Tensor region_bias(const Tensor& counts, bool count_regions) {
  const auto bias = count_regions ? counts.clamp_min(1).log() : torch::zeros_like(counts);
  return bias.masked_fill(counts == 0, -INFINITY).transpose(2, 3);
}

AttentionResult biased(const Tensor& q, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                       const std::vector<Tensor>& biases) {
  AttentionOptions options;
  const auto bias = torch::cat(biases, 3);
  options.bias = bias.to(bias.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32).contiguous();
  return attention_with_lse(q.contiguous(), torch::cat(keys, 2), torch::cat(values, 2), options);
}

}  // namespace

TokenGrid TokenGrid::rows_from(int64_t first) const {
  const auto rows = [&](const Tensor& t) { return t.narrow(2, first, t.size(2) - first); };
  return {rows(q), rows(k), rows(v), rows(real)};
}

RegionSummaries row_sides(const TokenGrid& grid, RegionPool& pool) {
  const auto q = by_row(grid.q), k = by_row(grid.k), v = by_row(grid.v), real = by_row(grid.real);
  const auto left = before(q, k, v, real, pool), right = behind(q, k, v, real, pool);
  const auto both = [&](const Tensor& l, const Tensor& r) {
    return torch::stack({l, r}, 2).unflatten(0, {grid.q.size(0), -1}).transpose(1, 2);
  };
  return {both(left.keys, right.keys), both(left.values, right.values), both(left.counts, right.counts)};
}

Tensor attend_mixture(const TokenGrid& grid, const RegionSummaries& sides, int64_t first, RegionPool& pool,
                      const MixtureOptions& options) {
  const int64_t batch = grid.q.size(0), rows = grid.q.size(2), s = grid.q.size(3), fresh = rows - first;
  const auto own = grid.rows_from(first);
  const auto q = by_column(grid.q), k = by_column(grid.k), v = by_column(grid.v), real = by_column(grid.real);

  // The row, and of the other columns what is above and below it.
  const auto seen_if = [&](const Tensor& seen) {
    return torch::zeros(seen.sizes(), grid.real.options()).masked_fill(seen.logical_not(), -INFINITY);
  };
  const auto at = torch::arange(s), across = at.unsqueeze(1) - at;
  std::vector<Tensor> keys{by_row(own.k)}, values{by_row(own.v)};
  std::vector<Tensor> biases{region_bias(by_row(own.real), false)};
  biases[0] = biases[0] + seen_if(options.causal ? across >= 0 : torch::ones({s, s}, torch::kBool));
  const auto add_columns = [&](const RegionSummaries& parts) {
    const auto of_rows = [&](const Tensor& t) {
      // [B s, H, R, D] -> [B fresh, H, s, D]
      return t.unflatten(0, {batch, s}).permute({0, 3, 2, 1, 4}).flatten(0, 1);
    };
    keys.push_back(of_rows(parts.keys)), values.push_back(of_rows(parts.values));
    biases.push_back(region_bias(of_rows(parts.counts), options.count_regions) + seen_if(across != 0));
  };
  add_columns(before(q, k, v, real, pool, first));
  if (!options.causal) add_columns(behind(q, k, v, real, pool));
  const auto in_row = biased(by_row(own.q), keys, values, biases);

  // The column, and of the other rows what is on either side of it.
  const auto down = torch::arange(first, rows).unsqueeze(1) - torch::arange(rows);
  const auto others = seen_if(options.causal ? down > 0 : down != 0);
  keys = {k}, values = {v}, biases = {region_bias(real, false) + others};
  for (const int64_t side : {0, 1}) {
    const auto of_columns = [&](const Tensor& t) { return by_column(t.select(3, side)); };
    keys.push_back(of_columns(sides.keys)), values.push_back(of_columns(sides.values));
    biases.push_back(region_bias(of_columns(sides.counts), options.count_regions) + others);
  }
  const auto in_column = biased(by_column(own.q), keys, values, biases);
  // [B s, H, fresh, ...] -> [B fresh, H, s, ...]
  const auto turned = [&](const Tensor& t) { return t.unflatten(0, {batch, s}).transpose(1, 3).flatten(0, 1); };
  const auto merged = nn::merge(in_row, {turned(in_column.out), turned(in_column.lse)});
  return merged.out.unflatten(0, {batch, fresh}).transpose(1, 2);
}

}  // namespace heed::linear
