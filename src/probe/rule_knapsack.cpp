#include "probe/rule_knapsack.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

namespace heed::probe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Sums of sizes as one index: the last bound runs fastest. Sums within the bounds add as their indices do.
class Sums {
 public:
  explicit Sums(const std::vector<KnapsackBound>& bounds) : bounds_(bounds), stride_(bounds.size(), 1) {
    for (size_t b = bounds.size() - 1; b-- > 0;) stride_[b] = stride_[b + 1] * (bounds[b + 1].most + 1);
    count_ = stride_[0] * (bounds[0].most + 1);
  }

  int64_t count() const { return count_; }
  /// Of `count` times a rule; nothing where a bound is passed.
  std::optional<int64_t> index_of(int64_t first_heads, size_t first, int64_t second_heads, size_t second) const {
    int64_t index = 0;
    for (size_t b = 0; b < bounds_.size(); ++b) {
      const auto& size = bounds_[b].size;
      const int64_t sum = first_heads * size[first] + second_heads * size[second];
      if (sum > bounds_[b].most) return std::nullopt;
      index += sum * stride_[b];
    }
    return index;
  }
  int64_t part(int64_t index, size_t bound) const { return index / stride_[bound] % (bounds_[bound].most + 1); }
  /// No bound is passed by adding what `b` stands for to what `a` stands for.
  bool add_up(int64_t a, int64_t b) const {
    if (a + b >= count_) return false;
    for (size_t i = 1; i < bounds_.size(); ++i)  // the first is passed only by all
      if (part(a, i) + part(b, i) > bounds_[i].most) return false;
    return true;
  }
  bool enough(int64_t index) const {
    for (size_t i = 0; i < bounds_.size(); ++i)
      if (part(index, i) < bounds_[i].least) return false;
    return true;
  }
  bool no_larger(int64_t a, int64_t b) const {
    for (size_t i = 0; i < bounds_.size(); ++i)
      if (part(a, i) > part(b, i)) return false;
    return true;
  }

 private:
  const std::vector<KnapsackBound>& bounds_;
  std::vector<int64_t> stride_;
  int64_t count_ = 0;
};

/// A layer's heads under rule `first`, but for the `count` that gain most by rule `second`.
struct LayerOption {
  int64_t sum = 0;  // of its sizes
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

/// The cheapest option of every sum, by sum. Sizes depend on how many heads take which rule alone, so for two rules and
/// a count the heads that gain most are the best choice.
std::vector<LayerOption> options_of(const HeadCosts& cost, size_t rules, const Sums& sums) {
  std::map<int64_t, LayerOption> best;
  const auto heads = int64_t(cost.size());
  for (size_t first = 0; first < rules; ++first) {
    for (size_t second = first; second < rules; ++second) {
      LayerOption option{0, 0, first, second, 0};
      for (const auto& head : cost) option.cost += head[first];
      const auto order = by_gain(cost, first, second);
      for (size_t count = 0;; ++count) {
        option.count = count;
        if (const auto sum = sums.index_of(heads - int64_t(count), first, int64_t(count), second)) {
          option.sum = *sum;
          auto& other = best[*sum];
          if (option.cost < other.cost) other = option;
        }
        if (second == first || count == order.size()) break;
        option.cost += cost[order[count]][second] - cost[order[count]][first];
      }
    }
  }
  std::vector<LayerOption> options;
  for (const auto& [sum, option] : best) options.push_back(option);
  return options;
}

/// Without those that are nowhere smaller and no cheaper than another.
std::vector<LayerOption> efficient(const std::vector<LayerOption>& by_sum, const Sums& sums) {
  std::vector<LayerOption> kept;
  for (const auto& option : by_sum) {  // what is nowhere larger comes before
    const auto better = [&](const LayerOption& other) {
      return other.cost <= option.cost && sums.no_larger(other.sum, option.sum);
    };
    if (std::none_of(kept.rbegin(), kept.rend(), better)) kept.push_back(option);
  }
  return kept;
}

/// One option a layer.
std::optional<std::vector<LayerOption>> cheapest(const std::vector<std::vector<LayerOption>>& layers, const Sums& sums,
                                                 bool enough) {
  std::vector<double> cost(size_t(sums.count()), kInfinity);
  cost[0] = 0;
  std::vector<std::vector<int32_t>> taken;  // [layer][sum up to it]: its option
  for (const auto& options : layers) {
    std::vector<double> next(cost.size(), kInfinity);
    auto& from = taken.emplace_back(cost.size(), -1);
    for (int64_t sum = 0; sum < sums.count(); ++sum) {
      if (cost[size_t(sum)] == kInfinity) continue;
      for (size_t i = 0; i < options.size(); ++i) {
        if (!sums.add_up(sum, options[i].sum)) continue;
        const auto to = size_t(sum + options[i].sum);
        const double total = cost[size_t(sum)] + options[i].cost;
        if (total < next[to]) next[to] = total, from[to] = int32_t(i);
      }
    }
    cost = std::move(next);
  }
  int64_t best = -1;
  for (int64_t sum = 0; sum < sums.count(); ++sum)
    if (cost[size_t(sum)] < (best < 0 ? kInfinity : cost[size_t(best)]) && (!enough || sums.enough(sum))) best = sum;
  if (best < 0) return std::nullopt;
  std::vector<LayerOption> chosen(layers.size());
  for (size_t l = layers.size(); l-- > 0;) {
    chosen[l] = layers[l][size_t(taken[l][size_t(best)])];
    best -= chosen[l].sum;
  }
  return chosen;
}

}  // namespace

double RuleKnapsack::states() const {
  double states = 1;
  for (const auto& bound : bounds) states *= double(bound.most + 1);
  return states;
}

std::optional<RuleChoice> cheapest_rules(const RuleKnapsack& problem) {
  for (const auto& bound : problem.bounds)
    if (bound.most < 0 || bound.least > bound.most) return std::nullopt;
  const Sums sums(problem.bounds);
  std::vector<std::vector<LayerOption>> all, few;
  for (const auto& layer : problem.cost) {
    all.push_back(options_of(layer, problem.bounds[0].size.size(), sums));
    few.push_back(efficient(all.back(), sums));
  }
  // An option that is neither smaller nor cheaper is of use only where too little would be taken.
  auto chosen = cheapest(few, sums, false);
  int64_t total = 0;
  for (size_t l = 0; chosen && l < chosen->size(); ++l) total += (*chosen)[l].sum;
  if (!chosen || !sums.enough(total)) chosen = cheapest(all, sums, true);
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
