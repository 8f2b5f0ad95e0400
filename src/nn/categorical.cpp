#include "heed/nn/categorical.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/generator.h"

namespace heed::nn {

using torch::Tensor;

Tensor straight_through_sample(const Tensor& logits, uint64_t seed) {
  const auto chances = torch::softmax(logits, -1), rows = chances.detach().flatten(0, -2);
  auto generator = seeded_generator(seed);
  // Drawn in double: float sums of many classes may end below the number drawn.
  const auto drawn = rows.to(torch::kFloat64).multinomial(1, true, generator);
  const auto sample = torch::zeros_like(rows).scatter_(1, drawn, 1).view(chances.sizes());
  return sample + (chances - chances.detach());
}

Tensor categorical_kl(const Tensor& a, const Tensor& b) {
  const auto log_a = torch::log_softmax(a, -1), log_b = torch::log_softmax(b, -1);
  return (log_a.exp() * (log_a - log_b)).sum(-1);
}

Tensor symlog(const Tensor& x) { return x.sign() * torch::log1p(x.abs()); }
Tensor symexp(const Tensor& x) { return x.sign() * torch::expm1(x.abs()); }

TwoHot::TwoHot(int64_t bins, double range) : bins_(bins), range_(range) {
  require(bins >= 2 && range > 0 && std::isfinite(range),
          "two-hot: {} bins over +-{}: 2 or more and a positive range are accepted", bins, range);
}

Tensor TwoHot::encode(const Tensor& x) const {
  const auto at = (symlog(x).clamp(-range_, range_) + range_) * (static_cast<double>(bins_ - 1) / (2 * range_));
  const auto low = at.floor().clamp(0, static_cast<double>(bins_ - 2)), high_weight = (at - low).unsqueeze(-1);
  const auto bin = low.to(torch::kInt64).unsqueeze(-1);
  auto size = x.sizes().vec();
  size.push_back(bins_);
  return torch::zeros(size, x.options()).scatter(-1, bin, 1 - high_weight).scatter(-1, bin + 1, high_weight);
}

Tensor TwoHot::decode(const Tensor& logits) const {
  const auto bins = torch::linspace(-range_, range_, bins_, logits.options());
  return symexp((torch::softmax(logits, -1) * bins).sum(-1));
}

Tensor TwoHot::loss(const Tensor& logits, const Tensor& x) const {
  return -(encode(x).to(logits.scalar_type()) * torch::log_softmax(logits, -1)).sum(-1);
}

}  // namespace heed::nn
