#include "heed/nn/jump_plan.h"

#include <cmath>

namespace heed::nn {
namespace {

/// x, or the integer that it misses by rounding.
long double settled(long double x) {
  const long double near = std::round(x);
  return std::fabs(x - near) <= 1e-12L * std::fmax(1.0L, std::fabs(x)) ? near : x;
}

/// floor(i^(1 / p))
int64_t floor_root(int64_t i, double p) {
  if (p == 0.5) return i * i;
  return static_cast<int64_t>(
      std::floor(settled(std::pow(static_cast<long double>(i), 1 / static_cast<long double>(p)))));
}

/// ceil(factor x^p)
int64_t ceil_power(int64_t factor, int64_t x, double p) {
  if (p != 0.5)
    return static_cast<int64_t>(std::ceil(settled(static_cast<long double>(factor) *
                                                  std::pow(static_cast<long double>(x), static_cast<long double>(p)))));
  const int64_t square = factor * factor * x;
  auto root = static_cast<int64_t>(std::sqrt(static_cast<long double>(square)));
  while (root * root < square) ++root;
  while (root > 0 && (root - 1) * (root - 1) >= square) --root;
  return root;
}

}  // namespace

int64_t JumpPlan::window() const { return floor_root(skip + 1, power) - 1; }

std::vector<int64_t> JumpPlan::distances(int64_t tokens) const {
  std::vector<int64_t> all;
  for (int64_t i = skip + 1;; ++i) {
    const int64_t distance = floor_root(i, power) - 1;
    if (distance >= tokens) return all;
    if (all.empty() || distance > all.back()) all.push_back(distance);
  }
}

int64_t JumpPlan::reach_back(int64_t t) const { return ceil_power(back, t + 1, span_power); }
int64_t JumpPlan::reach_ahead(int64_t t) const { return ceil_power(ahead, t + 1, span_power); }

}  // namespace heed::nn
