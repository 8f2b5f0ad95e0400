#include "heed/cache/sampling.h"

#include "heed/error.h"

namespace heed::cache {

using torch::Tensor;

void Sampling::check() const {
  require(temperature >= 0 && std::isfinite(temperature), "temperature {}: 0 or more is accepted", temperature);
  require(top_k >= 0, "top_k {}: 0 (all) or more is accepted", top_k);
  require(top_p > 0 && top_p <= 1, "top_p {}: above 0 up to 1 is accepted", top_p);
  require(min_p >= 0 && min_p <= 1, "min_p {}: 0 to 1 is accepted", min_p);
}

Tensor distribution(const Tensor& logits, const Sampling& s) {
  // Sorted with ties to the lower id; cuts then keep a prefix.
  const auto [sorted, order] = logits.to(torch::kFloat64).sort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  auto values = sorted.clone();
  if (s.top_k > 0 && s.top_k < values.size(0)) values.slice(0, s.top_k).fill_(-INFINITY);
  // From the largest on, so that no temperature makes infinities of it.
  auto p = torch::softmax((values - values[0]) / s.temperature, 0);
  p = p.masked_fill(p < s.min_p * p[0], 0);
  p = p / p.sum();
  // A token stays when those before it do not hold the mass yet.
  p = p.masked_fill(p.cumsum(0) - p >= s.top_p, 0);
  p = p / p.sum();
  return torch::zeros_like(p).scatter_(0, order, p);
}

int64_t sample(const Tensor& logits, const Sampling& s, int64_t index) {
  require(!logits.isnan().any().item<bool>(), "the model's logits are NaN: no token can be chosen");
  require(logits.max().isfinite().item<bool>(), "the model's largest logit is infinite: no token can be chosen");
  if (s.temperature == 0) {
    // argmax promises nothing about ties.
    return torch::nonzero(logits == logits.max())[0].item<int64_t>();
  }
  const auto p = distribution(logits, s);
  const double at = tasks::Random(tasks::hash64("sample") ^ s.seed, uint64_t(index)).uniform();
  const auto past = p.cumsum(0).gt(at);
  // Rounding may leave the last sum below 1.
  return past.any().item<bool>() ? torch::nonzero(past)[0].item<int64_t>() : torch::nonzero(p)[-1].item<int64_t>();
}

}  // namespace heed::cache
