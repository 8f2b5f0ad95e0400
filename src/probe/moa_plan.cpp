#include <algorithm>
#include <cmath>
#include <set>

#include "heed/error.h"
#include "heed/probe/moa.h"
#include "probe/rule_knapsack.h"

namespace heed::probe {
namespace {

using cache::MoaRule;

/// Everything the search asks of candidates and profiles, as plain numbers.
struct Problem {
  std::vector<MoaRule> rules;
  int64_t layers, heads;
  std::vector<std::vector<std::vector<std::vector<double>>>> loss;  // [length][layer][head][rule]
  std::vector<std::vector<double>> density;                         // [length][rule]
  std::vector<std::vector<int64_t>> visible;                        // [length][rule], blocks
  std::vector<int64_t> causal;                                      // [length], blocks

  Problem(std::vector<MoaRule> candidates, const std::vector<MoaProfile>& profiles)
      : rules(std::move(candidates)),
        layers(profiles.front().by_distance.size(0)),
        heads(profiles.front().by_distance.size(1)) {
    for (const auto& profile : profiles) {
      // What is hidden by a band of d blocks: everything at a distance of d or more.
      const auto hidden = profile.by_distance.flip(2).cumsum(2).flip(2).contiguous();
      const int64_t blocks = profile.blocks();
      const auto* from = hidden.data_ptr<double>();
      auto& losses = loss.emplace_back();
      for (int64_t l = 0; l < layers; ++l) {
        auto& layer = losses.emplace_back();
        for (int64_t h = 0; h < heads; ++h, from += blocks) {
          auto& head = layer.emplace_back();
          for (const auto& rule : rules) {
            const int64_t band = rule.band(profile.length);
            head.push_back(band < blocks ? from[band] : 0);
          }
        }
      }
      causal.push_back(cache::causal_blocks(blocks));
      auto& seen = visible.emplace_back();
      auto& share = density.emplace_back();
      for (const auto& rule : rules) {
        seen.push_back(cache::visible_blocks(blocks, rule.band(profile.length)));
        share.push_back(double(seen.back()) / double(causal.back()));
      }
    }
  }

  size_t lengths() const { return loss.size(); }
  double loss_of(const RuleChoice& choice, size_t n) const {
    double sum = 0;
    for (size_t l = 0; l < choice.size(); ++l)
      for (size_t h = 0; h < choice[l].size(); ++h) sum += loss[n][l][h][choice[l][h]];
    return sum;
  }
  double density_of(const RuleChoice& choice, size_t n) const {
    double sum = 0;
    for (const auto& layer : choice)
      for (const size_t rule : layer) sum += density[n][rule];
    return sum / double(layers * heads);
  }
};

/// Finer than a hundredth of a head's share, and few enough for a table.
int64_t most_units(const Problem& p) { return std::clamp<int64_t>(64 * p.layers * p.heads, 4096, 65536); }

constexpr double kMostStates = 1 << 21;

/// The least loss at `primary` while the densities at all lengths, and the losses at those with a bound, are kept.
/// `bounds` [length]: infinite where there is none.
class BoundedSearch {
 public:
  BoundedSearch(const Problem& problem, const MoaOptions& options, size_t primary)
      : p_(problem), o_(options), primary_(primary) {
    knapsack_.bounds.push_back(bound_of(primary));
    auto& used = knapsack_.bounds[0];
    used.least = int64_t(
        std::ceil(o_.least * o_.density * double(p_.causal[primary] * heads()) / double(unit_of(primary)) - 1e-9));
  }

  std::optional<RuleChoice> run(const std::vector<double>& bounds) {
    std::vector<double> of_loss(p_.lengths()), of_density(p_.lengths());  // multipliers
    std::optional<RuleChoice> best;
    double scale = 0;
    for (int64_t round = 0; round < o_.rounds; ++round) {
      const auto choice = minimise(of_loss, of_density);
      if (!choice) return std::nullopt;
      const double loss = p_.loss_of(*choice, primary_);
      if (round == 0) scale = loss;
      bool fits = true;
      const double step = 2.0 / double(round + 1);
      for (size_t n = 0; n < p_.lengths(); ++n) {
        if (n == primary_) continue;
        const auto adjust = [&](double& multiplier, double value, double bound) {
          if (!std::isfinite(bound)) return;
          const double excess = value - bound;
          fits &= excess <= 1e-12 * std::max(1.0, bound);
          const double unit = bound > 0 ? bound : 1;
          multiplier = std::max(0.0, multiplier + step * (scale > 0 ? scale : 1) * excess / (unit * unit));
        };
        adjust(of_loss[n], p_.loss_of(*choice, n), bounds[n]);
        adjust(of_density[n], p_.density_of(*choice, n), o_.density);
      }
      if (fits && (!best || loss < p_.loss_of(*best, primary_))) best = choice;
      if (round == 0 && fits) break;  // no bound binds
    }
    const bool free = std::none_of(bounds.begin(), bounds.end(), [](double bound) { return std::isfinite(bound); });
    return best || !free ? best : exactly();
  }

 private:
  int64_t heads() const { return p_.layers * p_.heads; }
  int64_t unit_of(size_t n) const { return (p_.causal[n] * heads() + most_units(p_) - 1) / most_units(p_); }
  /// The density at one length as a bound of the knapsack, in units of blocks.
  KnapsackBound bound_of(size_t n) const {
    KnapsackBound bound;
    const int64_t unit = unit_of(n);
    for (const int64_t visible : p_.visible[n]) bound.size.push_back((visible + unit - 1) / unit);
    bound.most = int64_t(std::floor(o_.density * double(p_.causal[n] * heads()) / double(unit) + 1e-9));
    return bound;
  }

  /// The densities at all lengths as bounds of one knapsack, where its table is small: with few blocks the plans that
  /// multipliers lead to lie too far apart, and none of them may fit.
  std::optional<RuleChoice> exactly() const {
    auto problem = knapsack_;
    problem.cost = p_.loss[primary_];
    for (size_t n = 0; n < p_.lengths(); ++n)
      if (n != primary_) problem.bounds.push_back(bound_of(n));
    if (problem.states() > kMostStates) return std::nullopt;
    return cheapest_rules(problem);
  }

  std::optional<RuleChoice> minimise(const std::vector<double>& of_loss, const std::vector<double>& of_density) {
    auto cost = p_.loss[primary_];
    const double share = 1 / double(p_.layers * p_.heads);
    for (size_t n = 0; n < p_.lengths(); ++n) {
      if (of_loss[n] == 0 && of_density[n] == 0) continue;
      for (size_t l = 0; l < cost.size(); ++l)
        for (size_t h = 0; h < cost[l].size(); ++h)
          for (size_t r = 0; r < cost[l][h].size(); ++r)
            cost[l][h][r] += of_loss[n] * p_.loss[n][l][h][r] + of_density[n] * p_.density[n][r] * share;
    }
    knapsack_.cost = std::move(cost);
    return cheapest_rules(knapsack_);
  }

  const Problem& p_;
  const MoaOptions& o_;
  size_t primary_;
  RuleKnapsack knapsack_;
};

constexpr double kNoBound = std::numeric_limits<double>::infinity();

}  // namespace

std::vector<MoaRule> moa_candidates(const std::vector<MoaProfile>& profiles, const MoaOptions& o) {
  require(!profiles.empty(), "a search without a profile");
  require(o.step >= 1, "step = {}: 1 or more tokens is accepted", o.step);
  int64_t shortest = profiles.front().length, longest = shortest;
  for (const auto& profile : profiles)
    shortest = std::min(shortest, profile.length), longest = std::max(longest, profile.length);
  const int64_t target = std::max(o.target, longest);
  std::vector<MoaRule> rules{{0, 1}};
  std::set<std::vector<int64_t>> known;
  const auto bands = [&](const MoaRule& rule) {
    std::vector<int64_t> bands{rule.band(target)};
    for (const auto& profile : profiles) bands.push_back(rule.band(profile.length));
    return bands;
  };
  known.insert(bands(rules[0]));
  // From -shortest up, so that 0 is met whatever the step.
  for (int64_t a = -(shortest / o.step) * o.step; a <= longest; a += o.step)
    for (int64_t eighths = 0; eighths <= 8; ++eighths) {
      const MoaRule rule{a, double(eighths) / 8};
      const auto window = [&](int64_t length) { return double(a) + rule.b * double(length); };
      if (window(shortest) <= 0 || window(longest) > double(longest) || window(target) > double(target)) continue;
      if (known.insert(bands(rule)).second) rules.push_back(rule);
    }
  return rules;
}

checkpoint::HeadTable MoaPlan::to_table() const {
  checkpoint::HeadTable table("moa", checkpoint::HeadTable::Axis::kv, int64_t(rules.size()),
                              int64_t(rules.front().size()));
  for (size_t l = 0; l < rules.size(); ++l)
    for (size_t h = 0; h < rules[l].size(); ++h) table.set(int64_t(l), int64_t(h), rules[l][h].to_json());
  return table;
}

nlohmann::json MoaPlan::settings() const { return {{"rules", to_table().to_json()["values"]}}; }

MoaPlan moa_plan_of(std::vector<std::vector<MoaRule>> rules, const std::vector<MoaProfile>& profiles) {
  MoaPlan plan{std::move(rules), {}, {}};
  for (const auto& profile : profiles) {
    double loss = 0, visible = 0;
    for (size_t l = 0; l < plan.rules.size(); ++l)
      for (size_t h = 0; h < plan.rules[l].size(); ++h) {
        const int64_t band = plan.rules[l][h].band(profile.length);
        if (band < profile.blocks())
          loss += profile.by_distance[int64_t(l)][int64_t(h)].slice(0, band).sum().item<double>();
        visible += double(cache::visible_blocks(profile.blocks(), band));
      }
    plan.loss.push_back(loss);
    const auto heads = double(plan.rules.size() * plan.rules.front().size());
    plan.density.push_back(visible / heads / double(cache::causal_blocks(profile.blocks())));
  }
  return plan;
}

std::vector<MoaPlan> moa_pareto(const std::vector<MoaProfile>& profiles, const MoaOptions& o) {
  require(o.density > 0 && o.density <= 1, "density = {}: above 0 and at most 1 is accepted", o.density);
  const Problem problem(moa_candidates(profiles, o), profiles);
  size_t primary = 0;
  for (size_t n = 0; n < profiles.size(); ++n)
    if (profiles[n].length > profiles[primary].length) primary = n;
  const auto search = [&](size_t minimised, const std::vector<double>& bounds) {
    return BoundedSearch(problem, o, minimised).run(bounds);
  };
  const std::vector<double> none(profiles.size(), kNoBound);
  const auto first = search(primary, none);
  require(first.has_value(), "density {}: no plan of {} candidate rules reads that little; a smaller step may have one",
          o.density, problem.rules.size());
  // Bounds of every other length, from its own minimum to what the first plan costs there.
  std::vector<std::vector<double>> bounds{none};
  for (size_t n = 0; n < profiles.size(); ++n) {
    if (n == primary) continue;
    const auto own = search(n, none);
    const double most = problem.loss_of(*first, n), least = own ? problem.loss_of(*own, n) : most;
    std::vector<std::vector<double>> more;
    for (const auto& bound : bounds)
      for (int64_t level = 1; level <= o.levels; ++level) {
        more.push_back(bound);
        more.back()[n] = least + (most - least) * double(level) / double(o.levels);
      }
    bounds = std::move(more);
  }
  std::set<RuleChoice> choices{*first};
  for (const auto& bound : bounds)
    if (const auto found = search(primary, bound)) choices.insert(*found);
  std::vector<MoaPlan> plans;
  for (const auto& choice : choices) {
    std::vector<std::vector<MoaRule>> rules;
    for (const auto& layer : choice) {
      auto& of_layer = rules.emplace_back();
      for (const size_t rule : layer) of_layer.push_back(problem.rules[rule]);
    }
    plans.push_back(moa_plan_of(std::move(rules), profiles));
  }
  const auto dominated = [&](const MoaPlan& plan) {
    return std::any_of(plans.begin(), plans.end(), [&](const MoaPlan& other) {
      bool nowhere_worse = true, somewhere_better = false;
      for (size_t n = 0; n < plan.loss.size(); ++n) {
        nowhere_worse &= other.loss[n] <= plan.loss[n];
        somewhere_better |= other.loss[n] < plan.loss[n];
      }
      return nowhere_worse && somewhere_better;
    });
  };
  std::vector<MoaPlan> pareto;
  std::copy_if(plans.begin(), plans.end(), std::back_inserter(pareto),
               [&](const auto& plan) { return !dominated(plan); });
  return pareto;
}

size_t best_at(const std::vector<MoaPlan>& plans, const MoaProfile& unseen) {
  require(!plans.empty(), "no plan to choose from");
  size_t best = 0;
  double least = kNoBound;
  for (size_t i = 0; i < plans.size(); ++i) {
    const double loss = moa_plan_of(plans[i].rules, {unseen}).loss[0];
    if (loss < least) best = i, least = loss;
  }
  return best;
}

}  // namespace heed::probe
