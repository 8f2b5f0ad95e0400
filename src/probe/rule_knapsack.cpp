#include "probe/rule_knapsack.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace heed::probe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A layer's heads under rule `first`, but for the `count` that gain most by rule `second`.
struct LayerOption {
  int64_t size = 0;
  double cost = kInfinity;
  size_t first = 0, second = 0, count = 0;
};

using HeadCosts = std::vector<std::vector<double>>;  // [head][rule]

/// Heads from the one that gains most to the one that gains least when it takes `second` for `first`.
std::vector<size_t> by_gain(const HeadCosts& cost, size_t first, size_t second) {
  std::vector<size_t> order(cost.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto change = [&](size_t h) { return cost[h][second] - cost[h][first]; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return change(a) < change(b); });
  return order;
}

/// The cheapest option of every size up to `most`, by size. A size depends on how many heads take which rule alone, so
/// for two rules and a count the heads that gain most are the best choice.
std::vector<LayerOption> options_of(const HeadCosts& cost, const std::vector<int64_t>& size, int64_t most) {
  std::vector<LayerOption> best(size_t(most) + 1);
  const auto heads = int64_t(cost.size());
  for (size_t first = 0; first < size.size(); ++first) {
    for (size_t second = first; second < size.size(); ++second) {
      LayerOption option{heads * size[first], 0, first, second, 0};
      for (const auto& head : cost) option.cost += head[first];
      const auto order = by_gain(cost, first, second);
      for (size_t count = 0;; ++count) {
        option.count = count;
        if (option.size <= most && option.cost < best[size_t(option.size)].cost) best[size_t(option.size)] = option;
        if (second == first || count == order.size()) break;
        option.size += size[second] - size[first];
        option.cost += cost[order[count]][second] - cost[order[count]][first];
      }
    }
  }
  std::erase_if(best, [](const LayerOption& option) { return option.cost == kInfinity; });
  return best;
}

/// Without those that are no smaller and no cheaper than another.
std::vector<LayerOption> efficient(const std::vector<LayerOption>& by_size) {
  std::vector<LayerOption> kept;
  for (const auto& option : by_size)
    if (kept.empty() || option.cost < kept.back().cost) kept.push_back(option);
  return kept;
}

/// One option a layer.
std::optional<std::vector<LayerOption>> cheapest(const std::vector<std::vector<LayerOption>>& layers, int64_t least,
                                                 int64_t most) {
  std::vector<double> cost(size_t(most) + 1, kInfinity);
  cost[0] = 0;
  std::vector<std::vector<int32_t>> taken;  // [layer][sum of sizes up to it]: its option
  for (const auto& options : layers) {
    std::vector<double> next(cost.size(), kInfinity);
    auto& from = taken.emplace_back(cost.size(), -1);
    for (size_t i = 0; i < options.size(); ++i) {
      const auto size = size_t(options[i].size);
      for (size_t sum = size; sum < cost.size(); ++sum) {
        const double total = cost[sum - size] + options[i].cost;
        if (total < next[sum]) next[sum] = total, from[sum] = int32_t(i);
      }
    }
    cost = std::move(next);
  }
  const auto best = std::min_element(cost.begin() + std::min(least, most), cost.end());
  if (best == cost.end() || *best == kInfinity) return std::nullopt;
  std::vector<LayerOption> chosen(layers.size());
  auto sum = size_t(best - cost.begin());
  for (size_t l = layers.size(); l-- > 0;) {
    chosen[l] = layers[l][size_t(taken[l][sum])];
    sum -= size_t(chosen[l].size);
  }
  return chosen;
}

}  // namespace

std::optional<RuleChoice> cheapest_rules(const RuleKnapsack& problem) {
  if (problem.most < 0 || problem.least > problem.most) return std::nullopt;
  std::vector<std::vector<LayerOption>> all, few;
  for (const auto& layer : problem.cost) {
    all.push_back(options_of(layer, problem.size, problem.most));
    few.push_back(efficient(all.back()));
  }
  // An option that is neither smaller nor cheaper is of use only where too little would be taken.
  auto chosen = cheapest(few, 0, problem.most);
  int64_t total = 0;
  for (size_t l = 0; chosen && l < chosen->size(); ++l) total += (*chosen)[l].size;
  if (!chosen || total < problem.least) chosen = cheapest(all, problem.least, problem.most);
  if (!chosen) return std::nullopt;
  RuleChoice rules;
  for (size_t l = 0; l < chosen->size(); ++l) {
    const auto& option = (*chosen)[l];
    auto& layer = rules.emplace_back(problem.cost[l].size(), option.first);
    const auto order = by_gain(problem.cost[l], option.first, option.second);
    for (size_t i = 0; i < option.count; ++i) layer[order[i]] = option.second;
  }
  return rules;
}

}  // namespace heed::probe
