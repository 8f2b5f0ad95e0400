#include <algorithm>
#include <cmath>
#include <numeric>

#include "cache/policies/act_qkv.h"

namespace heed::cache {

using torch::Tensor;

Tensor activation_bias(const Tensor& q) {
  const auto tokens = q.to(torch::kFloat64).transpose(1, 2).flatten(2);  // [B, n, C]
  const auto deviation = (tokens - tokens.mean(1, true)).square();
  const auto variance = deviation.mean(1, true);
  // A channel whose variation is the rounding of its size doesn't vary.
  constexpr double kConstant = 1e-12;
  const auto varies = variance > kConstant * tokens.square().mean(1, true);
  const auto in_units = torch::where(varies, deviation / variance, torch::zeros({}, torch::kFloat64));
  return in_units.sum(2) / varies.sum(2).clamp_min(1);
}

Tensor probe_query(const Tensor& q) {
  auto bias = activation_bias(q);
  const auto sum = bias.sum(1, true);
  const auto weights = torch::where(sum > 0, bias / sum, torch::full({}, 1.0 / double(q.size(2)), torch::kFloat64));
  return (q.to(torch::kFloat64) * weights.unsqueeze(1).unsqueeze(3)).sum(2, true).to(torch::kFloat32);
}

std::vector<int64_t> layer_budgets(const std::vector<int64_t>& wanted, int64_t mean, int64_t least) {
  const int64_t layers = int64_t(wanted.size()), total = layers * mean;
  const auto share = [&](int64_t wants, double factor) {
    return std::clamp(factor * double(wants), double(least), double(2 * mean));
  };
  const auto sum = [&](double factor) {
    double sum = 0;
    for (const int64_t wants : wanted) sum += share(wants, factor);
    return sum;
  };
  // The sum grows with the factor, from layers * least to twice the total.
  double low = 0, high = 2.0 * double(mean) / double(*std::min_element(wanted.begin(), wanted.end()));
  for (int halving = 0; halving < 64; ++halving)
    (sum((low + high) / 2) < double(total) ? low : high) = (low + high) / 2;
  std::vector<int64_t> budgets(layers);
  std::vector<double> remainders(layers);
  for (int64_t i = 0; i < layers; ++i) {
    const double exact = share(wanted[i], high);
    budgets[i] = int64_t(std::floor(exact));
    remainders[i] = exact - double(budgets[i]);
  }
  // Whole blocks: the largest remainders are rounded up.
  std::vector<int64_t> order(layers);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return remainders[a] > remainders[b]; });
  const int64_t missing = total - std::accumulate(budgets.begin(), budgets.end(), int64_t{0});
  for (int64_t i = 0; i < missing; ++i) ++budgets[order[i]];
  return budgets;
}

}  // namespace heed::cache
