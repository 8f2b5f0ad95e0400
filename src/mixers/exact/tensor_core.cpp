#include "mixers/exact/tensor_core.h"

#include <cmath>

#include "heed/attention.h"
#include "heed/nn/partial.h"
#include "heed/nn/recompute.h"

namespace heed::exact {
namespace {

using torch::Tensor;

constexpr int64_t kFirstKeys = 16;     // of a call
constexpr int64_t kPrefixTokens = 32;  // whose running sums are made at once

/// Pairs whose first token is one of a few: out [B, H, N, Dv] and, as one column more, the lse.
Tensor some_pairs(const Tensor& q, const Tensor& k1, const Tensor& k2, const Tensor& v1, const Tensor& v2,
                  const AttentionOptions& options, const Tensor& first_hidden) {
  const int64_t heads = q.size(1), few = k1.size(2);
  const auto asked = (q.unsqueeze(2) * k1.unsqueeze(3)).flatten(1, 2);  // [B, H few, N, D]
  const auto second = attention_with_lse(asked, k2, v2, options);
  const auto out = second.out.unflatten(1, {heads, few}) * v1.unsqueeze(3);
  auto lse = second.lse.unflatten(1, {heads, few}).transpose(2, 3);  // [B, H, N, few]
  if (first_hidden.defined()) lse = lse.masked_fill(first_hidden, -INFINITY);
  const auto merged = nn::merge_parts(out.transpose(2, 3), lse);
  return torch::cat({merged.out, merged.lse.to(merged.out.scalar_type()).unsqueeze(3)}, 3);
}

}  // namespace

Tensor pair_attention(const Tensor& q, const PairKeys& keys, bool causal) {
  const int64_t n = q.size(2), m = keys.k1.size(2), past = m - n, values = keys.v1.size(3);
  AttentionResult all{torch::zeros({q.size(0), q.size(1), n, values}, q.options()),
                      torch::full({q.size(0), q.size(1), n}, -INFINITY, q.options())};
  AttentionOptions options;
  options.scale = 1 / double(q.size(3));
  if (causal) options.mask = Causal{};
  if (keys.hidden.defined()) options.k_documents = keys.hidden.to(torch::kInt32).neg();
  for (int64_t first = 0; first < m; first += kFirstKeys) {
    const int64_t few = std::min(kFirstKeys, m - first);
    // Rows before the first of these tokens see no such pair.
    const int64_t from = causal ? std::min(n, std::max<int64_t>(0, first - past)) : 0, rows = n - from;
    if (rows == 0) break;
    auto own = options;
    if (keys.hidden.defined()) own.q_documents = torch::zeros({q.size(0), rows}, torch::kInt32);
    Tensor hidden;
    const auto token = torch::arange(first, first + few);
    if (causal) hidden = (token > (torch::arange(from, n) + past).unsqueeze(1)).unsqueeze(0).unsqueeze(0);
    if (keys.hidden.defined()) {
      const auto padded = keys.hidden.narrow(1, first, few).unsqueeze(1).unsqueeze(1);
      hidden = hidden.defined() ? hidden | padded : padded;
    }
    const auto part = nn::recomputed(
        [own, hidden](const std::vector<Tensor>& in) {
          return some_pairs(in[0], in[1], in[2], in[3], in[4], own, hidden);
        },
        {q.narrow(2, from, rows), keys.k1.narrow(2, first, few), keys.k2, keys.v1.narrow(2, first, few), keys.v2});
    all = nn::merge(all, {torch::constant_pad_nd(part.narrow(3, 0, values), {0, 0, from, 0}),
                          torch::constant_pad_nd(part.select(3, values), {from, 0}, -INFINITY)});
  }
  return all.out;
}

Tensor monomials(const Tensor& x, int64_t degree, bool taylor) {
  const int64_t d = x.size(-1);
  std::vector<Tensor> by_degree{torch::ones_like(x.narrow(-1, 0, 1))};
  // A monomial is one of a degree less times a channel not before its last; the factor 1 / a! follows the run length.
  struct Term {
    int64_t last, run;
  };
  std::vector<Term> terms{{0, 0}};
  for (int64_t t = 1; t <= degree; ++t) {
    std::vector<int64_t> parents, channels;
    std::vector<double> factors;
    std::vector<Term> next;
    for (size_t parent = 0; parent < terms.size(); ++parent)
      for (int64_t c = terms[parent].last; c < d; ++c) {
        const int64_t run = c == terms[parent].last ? terms[parent].run + 1 : 1;
        parents.push_back(int64_t(parent));
        channels.push_back(c);
        factors.push_back(1 / (double(run) * double(d)));
        next.push_back({c, run});
      }
    auto product =
        by_degree.back().index_select(-1, torch::tensor(parents)) * x.index_select(-1, torch::tensor(channels));
    if (taylor) product = product * torch::tensor(factors, x.options().requires_grad(false));
    by_degree.push_back(product);
    terms = std::move(next);
  }
  return torch::cat(by_degree, -1);
}

Tensor polynomial_pair_attention(const Tensor& q, const PairKeys& keys, int64_t degree, bool causal, Tensor& sum1,
                                 Tensor& sum2) {
  const auto counted = [](const Tensor& v) { return torch::cat({v, torch::ones_like(v.narrow(3, 0, 1))}, 3); };
  const auto seen = [&](const Tensor& features) {
    return keys.hidden.defined() ? features.masked_fill(keys.hidden.unsqueeze(1).unsqueeze(3), 0) : features;
  };
  const auto u1 = monomials(q, degree, true), u2 = seen(monomials(keys.k1, degree, false)),
             u3 = seen(monomials(keys.k2, degree, false));
  const auto v1 = counted(keys.v1), v2 = counted(keys.v2);
  const auto divided = [](const Tensor& sums) {
    const int64_t values = sums.size(3) - 1;
    return sums.narrow(3, 0, values) / sums.narrow(3, values, 1).clamp_min(1e-12);
  };
  const auto added = [](const Tensor& u, const Tensor& v) { return torch::matmul(u.transpose(2, 3), v); };
  if (!causal) return divided(torch::matmul(u1, added(u2, v1) * added(u3, v2)));

  const std::vector<int64_t> sizes{q.size(0), q.size(1), u1.size(3), v1.size(3)};
  if (!sum1.defined()) sum1 = torch::zeros(sizes, q.options()), sum2 = torch::zeros(sizes, q.options());
  std::vector<Tensor> outs;
  for (int64_t first = 0; first < q.size(2); first += kPrefixTokens) {
    const int64_t tokens = std::min(kPrefixTokens, q.size(2) - first);
    const auto part = [&](const Tensor& x) { return x.narrow(2, first, tokens); };
    outs.push_back(nn::recomputed(
        [](const std::vector<Tensor>& in) {
          const auto prefix = [](const Tensor& sum, const Tensor& u, const Tensor& v) {
            return sum.unsqueeze(2) + (u.unsqueeze(4) * v.unsqueeze(3)).cumsum(2);  // [B, H, tokens, r, Dv + 1]
          };
          const auto pairs = prefix(in[5], in[1], in[3]) * prefix(in[6], in[2], in[4]);
          return torch::matmul(in[0].unsqueeze(3), pairs).squeeze(3);
        },
        {part(u1), part(u2), part(u3), part(v1), part(v2), sum1, sum2}));
    sum1 = sum1 + added(part(u2), part(v1));
    sum2 = sum2 + added(part(u3), part(v2));
  }
  if (outs.empty()) return torch::zeros({q.size(0), q.size(1), 0, keys.v1.size(3)}, q.options());
  return divided(torch::cat(outs, 2));
}

}  // namespace heed::exact
