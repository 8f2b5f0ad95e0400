#include "mixers/linear/performer_features.h"

#include <cmath>

#include "heed/nn/random_features.h"

namespace heed::linear {
namespace {

using torch::Tensor;

/// Below every denominator that is not 0.
constexpr double kLeastSum = 1e-37;

/// Logarithms of the features of x [B, H, N, d], [B, H, N, m].
Tensor feature_logits(const Tensor& x, const PerformerFeatures& features) {
  auto logits = nn::positive_feature_logits(x, features.rows);
  if (features.kind != "hyperbolic") return logits;
  return torch::cat({logits, nn::positive_feature_logits(x, -features.rows)}, -1);
}

/// Of nothing but padding the largest exponent is -inf: any number will do.
Tensor finite(const Tensor& largest) { return largest.masked_fill(largest == -INFINITY, 0); }

Tensor quotient(const Tensor& sums) {
  const int64_t columns = sums.size(3) - 1;
  return sums.narrow(3, 0, columns) / sums.narrow(3, columns, 1).clamp_min(kLeastSum);
}

/// What causal features carry from call to call; undefined before the first token.
struct FeaturePast {
  Tensor sums;     ///< [B, H, m, Dv + 1]: of exp(logits of keys - largest) times values and 1
  Tensor largest;  ///< [B, H, 1] exponent of the keys so far
  Tensor plain;    ///< [B, H, 1, Dv + 1]: of values and 1
};

/// q [B, H, N, m] features, k [B, H, N, m] logits, v [B, H, N, Dv]; hidden [B, 1, N, 1] or undefined.
Tensor causal_features(const Tensor& q, Tensor k, const Tensor& v, const Tensor& hidden, double eps,
                       FeaturePast& past) {
  const int64_t tokens = k.size(2);
  auto sources = torch::cat({v, torch::ones_like(v.narrow(3, 0, 1))}, 3);
  if (hidden.defined()) k = k.masked_fill(hidden, -INFINITY), sources = sources.masked_fill(hidden, 0);
  if (!past.largest.defined()) past.largest = k.new_full({k.size(0), k.size(1), 1}, -INFINITY);
  const auto largest = std::get<0>(torch::cummax(torch::cat({past.largest, k.amax(3)}, 2), 2));
  const auto before = largest.narrow(2, 0, tokens), now = largest.narrow(2, 1, tokens);
  // The scale cancels, so no gradient goes through it; what it does to eps is said below.
  const auto scale = finite(now.detach());
  const auto growth = (before - now).masked_fill(before == -INFINITY, 0).detach();
  const auto initial = past.sums.defined() ? std::optional(past.sums) : std::nullopt;
  const auto result = ops::linear_chunk(q, torch::exp(k - scale.unsqueeze(3)), sources, growth, initial);
  auto plain = sources.cumsum(2);
  if (past.plain.defined()) plain = plain + past.plain;
  past.sums = result.state;
  past.largest = largest.narrow(2, tokens, 1);
  if (tokens > 0) past.plain = plain.narrow(2, tokens - 1, 1);
  const auto floor = (torch::exp(now - scale) * eps).unsqueeze(3);
  return quotient(result.out + floor * q.sum(3, true) * plain);
}

Tensor packed_features(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& hidden, double eps,
                       const Tensor& cu_seqlens) {
  const auto bounds = cu_seqlens.to(torch::kInt64).contiguous();
  const auto* at = bounds.data_ptr<int64_t>();
  std::vector<Tensor> parts{v.narrow(2, 0, 0)};
  for (int64_t s = 0; s + 1 < bounds.numel(); ++s) {
    if (at[s + 1] == at[s]) continue;
    const auto part = [&](const Tensor& t) { return t.defined() ? t.slice(2, at[s], at[s + 1]) : t; };
    FeaturePast past;
    parts.push_back(causal_features(part(q), part(k), part(v), part(hidden), eps, past));
  }
  return torch::cat(parts, 2);
}

Tensor relu_features(RecurrentCall& call, size_t slot, const Heads& heads, const Tensor& rows, bool causal) {
  constexpr double kFloor = 1e-3;
  const auto map = [&](const Tensor& x) {
    return torch::relu(torch::matmul(x, rows.to(x.scalar_type()).t())) + kFloor;
  };
  const auto q = map(heads.q), k = map(heads.k);
  if (!causal) return ops::linear_noncausal(q, k, heads.v, call.input.key_padding, true);
  ops::LinearChunkOptions options;
  options.normalize = true;
  return call.linear(slot, q, k, heads.v, std::nullopt, options);
}

}  // namespace

Tensor performer_attention(RecurrentCall& call, size_t first_slot, const Heads& given,
                           const PerformerFeatures& features, bool causal) {
  const double root = std::pow(static_cast<double>(features.rows.size(1)), -0.25);
  const Heads heads{wide(given.q) * root, wide(given.k) * root, wide(given.v)};
  const auto type = given.v.scalar_type();
  if (features.kind == "relu") return relu_features(call, first_slot, heads, features.rows, causal).to(type);
  const auto raised = [&](const Tensor& logits, const Tensor& largest) {
    return torch::exp(logits - largest) + features.eps;
  };
  const auto q_logits = feature_logits(heads.q, features);
  auto k_logits = feature_logits(heads.k, features);
  const auto q = raised(q_logits, q_logits.amax(3, true));
  Tensor hidden;
  if (call.input.key_padding) hidden = call.input.key_padding->view({-1, 1, k_logits.size(2), 1});
  if (!causal) {
    if (hidden.defined()) k_logits = k_logits.masked_fill(hidden, -INFINITY);
    const auto k = raised(k_logits, finite(k_logits.amax({2, 3}, true)));
    return ops::linear_noncausal(q, k, heads.v, call.input.key_padding, true, kLeastSum).to(type);
  }
  if (call.input.cu_seqlens)
    return packed_features(q, k_logits, heads.v, hidden, features.eps, *call.input.cu_seqlens).to(type);
  FeaturePast past{call.slot(first_slot), call.slot(first_slot + 1), call.slot(first_slot + 2)};
  const auto out = causal_features(q, k_logits, heads.v, hidden, features.eps, past);
  call.slot(first_slot) = past.sums, call.slot(first_slot + 1) = past.largest, call.slot(first_slot + 2) = past.plain;
  return out.to(type);
}

}  // namespace heed::linear
