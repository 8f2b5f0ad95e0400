// A multiple-choice knapsack: one rule for each head, few distinct ones a layer.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace heed::probe {

using RuleChoice = std::vector<std::vector<size_t>>;  ///< [layer][head]: which rule

/// What a choice takes of one resource.
struct KnapsackBound {
  std::vector<int64_t> size;    ///< [rule], whatever the head; 0 or more
  int64_t least = 0, most = 0;  ///< of the sum of sizes over all heads
};

struct RuleKnapsack {
  std::vector<std::vector<std::vector<double>>> cost;  ///< [layer][head][rule], finite
  std::vector<KnapsackBound> bounds;                   ///< one or more

  /// Sums of sizes that the search tells apart.
  double states() const;
};

/// The cheapest choice with at most two distinct rules in each layer; nothing where the bounds admit none. Exact, by
/// dynamic programming over the sums of sizes: time grows with layers x states x the choices of a layer.
std::optional<RuleChoice> cheapest_rules(const RuleKnapsack& problem);

}  // namespace heed::probe
