#include "mixers/exact/tensor_core.h"

#include <cmath>
#include <span>

#include "heed/attention.h"
#include "heed/nn/keys.h"
#include "heed/nn/partial.h"
#include "heed/nn/recompute.h"

namespace heed::exact {
namespace {

using torch::Tensor;

constexpr int64_t kFirstKeys = 16;     // of a call
constexpr int64_t kPrefixTokens = 32;  // whose running sums are made at once

/// Who sees which member of a tuple; queries stand from `first_query` on.
struct Sight {
  bool causal = false;
  int64_t first_query = 0;
  Tensor hidden;  ///< bool [B, M] or undefined

  /// bool [B|1, 1, n|1, few] of the tokens from `first` on; undefined: all are seen.
  Tensor hidden_of(int64_t n, int64_t first, int64_t few) const {
    Tensor all;
    if (causal)
      all = (torch::arange(first, first + few) > (torch::arange(n) + first_query).unsqueeze(1)).view({1, 1, n, few});
    if (!hidden.defined()) return all;
    const auto padded = hidden.narrow(1, first, few).unsqueeze(1).unsqueeze(1);
    return all.defined() ? all | padded : padded;
  }
};

AttentionResult nothing_seen(const Tensor& q, int64_t values) {
  return {torch::zeros({q.size(0), q.size(1), q.size(2), values}, q.options()),
          torch::full({q.size(0), q.size(1), q.size(2)}, -INFINITY, q.options())};
}

/// All tuples of keys k[0], k[1], ..., of which k[0] stands from token `first` on. Heads of q are groups of heads of k.
AttentionResult tuples(const Tensor& q, std::span<const Tensor> k, std::span<const Tensor> v, const Sight& sight,
                       int64_t first = 0) {
  const int64_t n = q.size(2), heads = q.size(1), group = heads / k[0].size(1);
  if (k.size() == 1) {
    AttentionOptions options;
    options.scale = 1 / double(q.size(3));
    if (sight.causal) options.mask = Causal{};
    if (sight.hidden.defined()) nn::hide_keys(options, sight.hidden, n);
    return attention_with_lse(q, k[0], v[0], options);
  }
  auto all = nothing_seen(q, v[0].size(3));
  for (int64_t begin = 0; begin < k[0].size(2); begin += kFirstKeys) {
    const int64_t few = std::min(kFirstKeys, k[0].size(2) - begin);
    const auto members = [&](const Tensor& x) {
      return x.narrow(2, begin, few).repeat_interleave(group, 1).unsqueeze(3);
    };
    const auto asked = (q.unsqueeze(2) * members(k[0])).flatten(1, 2);  // [B, H few, N, D]
    const auto rest = tuples(asked, k.subspan(1), v.subspan(1), sight);
    const auto out = rest.out.unflatten(1, {heads, few}) * members(v[0]);
    auto lse = rest.lse.unflatten(1, {heads, few}).transpose(2, 3);  // [B, H, N, few]
    if (const auto hidden = sight.hidden_of(n, first + begin, few); hidden.defined())
      lse = lse.masked_fill(hidden, -INFINITY);
    all = nn::merge(all, nn::merge_parts(out.transpose(2, 3), lse));
  }
  return all;
}

}  // namespace

Tensor tuple_attention(const Tensor& q, const TupleKeys& keys, bool causal) {
  const int64_t n = q.size(2), m = keys.k[0].size(2), past = m - n, values = keys.v[0].size(3);
  const size_t members = keys.k.size();
  auto all = nothing_seen(q, values);
  for (int64_t first = 0; first < m; first += kFirstKeys) {
    const int64_t few = std::min(kFirstKeys, m - first);
    // Rows before the first of these tokens see no such tuple.
    const int64_t from = causal ? std::min(n, std::max<int64_t>(0, first - past)) : 0, rows = n - from;
    if (rows == 0) break;
    std::vector<Tensor> inputs{q.narrow(2, from, rows), keys.k[0].narrow(2, first, few),
                               keys.v[0].narrow(2, first, few)};
    inputs.insert(inputs.end(), keys.k.begin() + 1, keys.k.end());
    inputs.insert(inputs.end(), keys.v.begin() + 1, keys.v.end());
    const auto part = nn::recomputed(
        [sight = Sight{causal, past + from, keys.hidden}, members, first](const std::vector<Tensor>& in) {
          std::vector<Tensor> k{in[1]}, v{in[2]};
          k.insert(k.end(), in.begin() + 3, in.begin() + int64_t(2 + members));
          v.insert(v.end(), in.begin() + int64_t(2 + members), in.end());
          const auto found = tuples(in[0], k, v, sight, first);
          return torch::cat({found.out, found.lse.to(found.out.scalar_type()).unsqueeze(3)}, 3);
        },
        inputs);
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

Tensor polynomial_tuple_attention(const Tensor& q, const TupleKeys& keys, int64_t degree, bool causal,
                                  std::vector<Tensor>& sums) {
  const size_t members = keys.k.size();
  const auto taylor = monomials(q, degree, true);
  std::vector<Tensor> u, v;  // features of keys, and values with a 1 that counts
  for (size_t i = 0; i < members; ++i) {
    u.push_back(monomials(keys.k[i], degree, false));
    if (keys.hidden.defined()) u.back() = u.back().masked_fill(keys.hidden.unsqueeze(1).unsqueeze(3), 0);
    v.push_back(torch::cat({keys.v[i], torch::ones_like(keys.v[i].narrow(3, 0, 1))}, 3));
  }
  const int64_t values = v[0].size(3) - 1;
  const auto divided = [values](const Tensor& total) {
    return total.narrow(3, 0, values) / total.narrow(3, values, 1).clamp_min(1e-12);
  };
  const auto added = [](const Tensor& features, const Tensor& x) { return torch::matmul(features.transpose(2, 3), x); };
  const auto product = [](const std::vector<Tensor>& factors) {
    auto all = factors[0];
    for (size_t i = 1; i < factors.size(); ++i) all = all * factors[i];
    return all;
  };
  if (!causal) {
    std::vector<Tensor> whole;
    for (size_t i = 0; i < members; ++i) whole.push_back(added(u[i], v[i]));
    return divided(torch::matmul(taylor, product(whole)));
  }
  sums.resize(members);
  for (auto& sum : sums)
    if (!sum.defined()) sum = torch::zeros({q.size(0), q.size(1), taylor.size(3), values + 1}, q.options());
  std::vector<Tensor> outs;
  for (int64_t first = 0; first < q.size(2); first += kPrefixTokens) {
    const int64_t tokens = std::min(kPrefixTokens, q.size(2) - first);
    const auto part = [&](const Tensor& x) { return x.narrow(2, first, tokens); };
    std::vector<Tensor> inputs{part(taylor)};
    for (size_t i = 0; i < members; ++i) inputs.insert(inputs.end(), {sums[i], part(u[i]), part(v[i])});
    outs.push_back(nn::recomputed(
        [product](const std::vector<Tensor>& in) {
          std::vector<Tensor> prefixes;  // [B, H, tokens, r, Dv + 1]
          for (size_t i = 1; i < in.size(); i += 3)
            prefixes.push_back(in[i].unsqueeze(2) + (in[i + 1].unsqueeze(4) * in[i + 2].unsqueeze(3)).cumsum(2));
          return torch::matmul(in[0].unsqueeze(3), product(prefixes)).squeeze(3);
        },
        inputs));
    for (size_t i = 0; i < members; ++i) sums[i] = sums[i] + added(part(u[i]), part(v[i]));
  }
  if (outs.empty()) return torch::zeros({q.size(0), q.size(1), 0, values}, q.options());
  return divided(torch::cat(outs, 2));
}

}  // namespace heed::exact
