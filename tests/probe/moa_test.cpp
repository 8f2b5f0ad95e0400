// MoA's profile and search: the card's facts.
#include "heed/probe/moa.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "cache/oracle_induction.h"
#include "cache/small_model.h"
#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "heed/ops/attn_stats.h"
#include "probe/rule_knapsack.h"

namespace heed::probe::moa_test {
namespace {

using cache::MoaRule;
using torch::Tensor;

/// The output of one row of one head moves a share of the way to what it is when a key is masked.
struct HiddenPair : Taps {
  int64_t layer, head, row, key;
  double share = 0;
  CoreInput in;

  HiddenPair(int64_t layer, int64_t head, int64_t row, int64_t key) : layer(layer), head(head), row(row), key(key) {}
  void core_input(const LayerContext& at, CoreInput& input) override {
    if (at.index == layer) in = input;
  }
  void core_output(const LayerContext& at, Tensor& heads) override {
    if (at.index != layer) return;
    const int64_t kv = head / (in.q.size(1) / in.k.size(1));
    auto logits = in.k[0][kv].slice(0, 0, row + 1).mv(in.q[0][head][row]) / std::sqrt(double(in.q.size(3)));
    const auto values = in.v[0][kv].slice(0, 0, row + 1);
    const auto before = logits.softmax(0).unsqueeze(0).mm(values)[0];
    logits[key] = -INFINITY;
    const auto after = logits.softmax(0).unsqueeze(0).mm(values)[0];
    heads = heads.clone();
    heads[0][head][row] += share * (after - before);
  }
};

TEST(MoaProfile, InfluenceIsTheFirstOrderChangeOfTheLoss) {
  auto model = testing::small_decoder(4, 2);
  model->to(torch::kFloat64);
  const auto tokens = testing::random_tokens(1, 24, 71);
  const auto influence = influence_of_blocks(model, tokens, 6, 1);
  ASSERT_EQ(influence.sizes(), (std::vector<int64_t>{2, 2, 24, 24}));
  const auto change = [&](int64_t layer, int64_t head, int64_t row, int64_t key) {
    torch::NoGradGuard no_grad;
    HiddenPair hidden(layer, head, row, key);
    const auto loss = [&](double share) {
      hidden.share = share;
      const auto logits = model->forward(tokens, nullptr, 0, &hidden)[0].slice(0, 17, 23);
      return torch::nn::functional::cross_entropy(logits, tokens[0].slice(0, 18)).item<double>();
    };
    constexpr double kShare = 1e-4;
    return std::abs(loss(kShare) - loss(-kShare)) / (2 * kShare);
  };
  const double largest = influence.max().item<double>();
  EXPECT_GT(largest, 1e-3);
  for (const auto& [layer, kv, row, key] :
       {std::tuple{0, 0, 20, 3}, {0, 1, 11, 11}, {0, 1, 5, 0}, {1, 0, 19, 7}, {1, 1, 22, 21}, {1, 1, 10, 2}}) {
    const double want = std::max(change(layer, 2 * kv, row, key), change(layer, 2 * kv + 1, row, key));
    EXPECT_NEAR(influence[layer][kv][row][key].item<double>(), want, 1e-5 * largest)
        << layer << " " << kv << " " << row << " " << key;
  }
  // What no loss depends on, and what no query sees.
  EXPECT_EQ(influence[1].slice(1, 0, 17).abs().max().item<double>(), 0);
  EXPECT_EQ(influence[0][0][4][9].item<double>(), 0);
}

TEST(MoaProfile, ABandHidesWhatIsFartherAway) {
  torch::manual_seed(72);
  const auto influence = torch::rand({2, 3, 9, 9}, torch::kFloat64).tril();
  const MoaProfile profile(9 * MoaRule::kBlock, influence);
  for (const int64_t band : {1, 3, 8, 9}) {
    const MoaRule rule{band * MoaRule::kBlock, 0};
    double hidden = 0, seen = 0;
    for (int64_t i = 0; i < 9; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const bool visible = j == 0 || i - j < band;
        seen += visible;
        if (!visible) hidden += influence.select(2, i).select(2, j).sum().item<double>();
      }
    const auto plan = moa_plan_of({{rule, rule, rule}, {rule, rule, rule}}, {profile});
    EXPECT_NEAR(plan.loss[0], hidden, 1e-12 * std::max(1.0, hidden)) << band;
    EXPECT_NEAR(plan.density[0], seen / 45, 1e-12) << band;
  }
}

/// Every choice of rules with at most two distinct ones a layer.
void each_choice(int64_t layers, int64_t heads, size_t rules, const std::function<void(const RuleChoice&)>& visit) {
  auto choice = RuleChoice(static_cast<size_t>(layers), std::vector<size_t>(static_cast<size_t>(heads)));
  const auto next = [&] {
    for (auto& layer : choice)
      for (auto& rule : layer) {
        if (++rule < rules) return true;
        rule = 0;
      }
    return false;
  };
  do {
    bool few = true;
    for (const auto& layer : choice) few &= std::set<size_t>(layer.begin(), layer.end()).size() <= 2;
    if (few) visit(choice);
  } while (next());
}

TEST(RuleKnapsack, FindsWhatBruteForceFinds) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const int64_t layers = seed % 2 ? 2 : 1, heads = 4 / layers;
    RuleKnapsack problem;
    for (int64_t l = 0; l < layers; ++l) {
      auto& layer = problem.cost.emplace_back();
      for (int64_t h = 0; h < heads; ++h) {
        auto& head = layer.emplace_back();
        for (int r = 0; r < 5; ++r) head.push_back(double(random() % 1000) / 100);
      }
    }
    problem.bounds.resize(1 + seed % 2);  // every second one has two
    for (auto& bound : problem.bounds) {
      for (int r = 0; r < 5; ++r) bound.size.push_back(int64_t(random() % 12));
      bound.most = 8 + int64_t(random() % 20);
    }
    problem.bounds[0].least = seed % 3 ? problem.bounds[0].most * 9 / 10 : 0;
    double best = INFINITY;
    const auto cost_of = [&](const RuleChoice& choice) {
      double cost = 0;
      for (size_t l = 0; l < choice.size(); ++l)
        for (size_t h = 0; h < choice[l].size(); ++h) cost += problem.cost[l][h][choice[l][h]];
      return cost;
    };
    const auto fits = [&](const RuleChoice& choice) {
      for (const auto& bound : problem.bounds) {
        int64_t size = 0;
        for (const auto& layer : choice)
          for (const size_t rule : layer) size += bound.size[rule];
        if (size < bound.least || size > bound.most) return false;
      }
      return true;
    };
    each_choice(layers, heads, 5, [&](const RuleChoice& choice) {
      if (fits(choice)) best = std::min(best, cost_of(choice));
    });
    const auto found = cheapest_rules(problem);
    ASSERT_EQ(found.has_value(), std::isfinite(best));
    if (!found) continue;
    EXPECT_NEAR(cost_of(*found), best, 1e-12);
    EXPECT_TRUE(fits(*found));
    for (const auto& layer : *found) EXPECT_LE((std::set<size_t>(layer.begin(), layer.end()).size()), 2u);
  }
}

TEST(MoaSearch, CandidatesStayInsideTheText) {
  const MoaProfile a(1024, torch::zeros({1, 1, 16, 16}, torch::kFloat64)),
      b(4096, torch::zeros({1, 1, 64, 64}, torch::kFloat64));
  MoaOptions options;
  options.step = 512, options.target = 8192;
  const auto rules = moa_candidates({a, b}, options);
  EXPECT_EQ(rules[0], (MoaRule{0, 1}));
  std::set<std::vector<int64_t>> bands;
  for (const auto& rule : rules) {
    EXPECT_GT(double(rule.a) + rule.b * 1024, 0);
    for (const double n : {4096.0, 8192.0}) EXPECT_LE(double(rule.a) + rule.b * n, n);
    bands.insert({rule.band(1024), rule.band(4096), rule.band(8192)});
  }
  EXPECT_EQ(bands.size(), rules.size());
  EXPECT_GT(rules.size(), 20u);
}

TEST(MoaSearch, PlansKeepTheirBoundsAndNoneIsWorseEverywhere) {
  torch::manual_seed(73);
  const auto profile = [&](int64_t blocks) {
    // Some heads look far, some do not.
    const auto reach = torch::rand({3, 4, 1, 1}, torch::kFloat64) * 2;
    const auto distance = (torch::arange(blocks).view({-1, 1}) - torch::arange(blocks)).clamp_min(0);
    return MoaProfile(
        blocks * MoaRule::kBlock,
        (torch::rand({3, 4, blocks, blocks}, torch::kFloat64) * torch::exp(-distance / 4.0 / reach)).tril());
  };
  const std::vector<MoaProfile> profiles{profile(16), profile(32)};
  MoaOptions options;
  options.step = 64;  // the band of one block, which a quarter of 16 blocks needs, is among the candidates
  for (const double density : {0.5, 0.25}) {
    options.density = density;
    const auto plans = moa_pareto(profiles, options);
    ASSERT_FALSE(plans.empty());
    for (const auto& plan : plans) {
      EXPECT_LE(plan.density[0], density + 1e-9);
      EXPECT_LE(plan.density[1], density + 1e-9);
      EXPECT_GE(plan.density[1], 0.9 * density - 0.01);  // sizes are rounded up to a table's units
      for (const auto& layer : plan.rules) {
        std::set<std::pair<int64_t, double>> distinct;
        for (const auto& rule : layer) distinct.insert({rule.a, rule.b});
        EXPECT_LE(distinct.size(), 2u);
      }
      for (const auto& other : plans) EXPECT_FALSE(other.loss[0] < plan.loss[0] && other.loss[1] < plan.loss[1]);
      // Better than every head with the same window.
      for (const auto& rule : moa_candidates(profiles, options)) {
        const auto uniform = moa_plan_of({3, std::vector<MoaRule>(4, rule)}, profiles);
        if (uniform.density[0] <= density && uniform.density[1] <= density) {
          EXPECT_TRUE(plan.loss[0] < uniform.loss[0] || plan.loss[1] < uniform.loss[1]);
        }
      }
    }
    EXPECT_LT(best_at(plans, profile(24)), plans.size());
  }
  options.density = 0.01;
  EXPECT_THROW(moa_pareto(profiles, options), Error);
}

TEST(MoaSearch, FindsAPlanWhereBlocksAreFew) {
  // At most 6 and 8 blocks: multipliers alone jump over the plans that fit both lengths.
  for (const int64_t seed : {1, 2, 3, 4, 5, 6}) {
    torch::manual_seed(seed);
    const auto profile = [&](int64_t blocks) {
      return MoaProfile(blocks * MoaRule::kBlock, torch::rand({2, 2, blocks, blocks}, torch::kFloat64).tril());
    };
    const std::vector<MoaProfile> profiles{profile(6), profile(8)};
    MoaOptions options;
    options.step = 64;
    options.levels = 2;
    for (const double density : {0.6, 0.7, 0.8}) {
      options.density = density;
      for (const auto& plan : moa_pareto(profiles, options))
        for (const double share : plan.density) EXPECT_LE(share, density + 1e-9) << seed;
    }
  }
}

/// Influence of both heads of the induction oracle on the loss of its first answer, blocks of `block`.
Tensor oracle_influence(const std::vector<int64_t>& prompt, int64_t block) {
  constexpr int64_t kTokens = testing::OracleInduction::kTokens, kDim = testing::OracleInduction::kDim;
  const int64_t n = int64_t(prompt.size());
  nn::PositionsConfig config;
  config.kind = "rope";
  const nn::Positions rotary(config, kTokens, 1, true);
  const auto doubles = torch::TensorOptions(torch::kFloat64);
  const auto one_hot = torch::one_hot(torch::tensor(prompt), kTokens).to(torch::kFloat64).view({1, 1, n, kTokens});
  const auto toward = torch::cat({torch::ones({kTokens / 2}, doubles), torch::zeros({kTokens / 2}, doubles)});
  const auto constant = toward.view({1, 1, 1, -1}).expand_as(one_hot);
  AttentionOptions options;
  options.mask = Causal{};
  options.scale = 1;
  const auto q1 = 20 * rotary->rotate(constant, torch::arange(n) - 1), k1 = rotary->rotate(constant, torch::arange(n));
  const auto zero1 = torch::zeros_like(one_hot).requires_grad_(), zero2 = zero1.clone().detach().requires_grad_();
  const auto before = attention(q1, k1, one_hot, options) + zero1;
  const auto widened = [](const Tensor& x) { return torch::constant_pad_nd(x, {0, kDim - kTokens}); };
  auto sink_q = torch::zeros({1, 1, n, kDim}, doubles), sink_k = sink_q.clone();
  sink_q.select(3, kTokens).fill_(1);
  sink_k[0][0][0][kTokens] = 6;
  const auto q2 = widened(one_hot) + sink_q, k2 = widened(12 * before) + sink_k;
  const auto out = attention(q2, k2, one_hot, options) + zero2;
  const auto loss = -(out[0][0][n - 1][51] + 1e-9).log();
  const auto gradients = torch::autograd::grad({loss}, {zero1, zero2});
  return torch::cat({ops::weight_influence(q1, k1, one_hot, gradients[0], options, block),
                     ops::weight_influence(q2, k2, one_hot, gradients[1], options, block)});
}

TEST(MoaSearch, TheInductionHeadOfTheOracleGetsTheWindow) {
  const int64_t n = 640;
  const auto prompt = testing::OracleInduction::prompt(n, 200, 74);
  const auto fine = oracle_influence(prompt, 1);
  // Tokens 201 .. 206 are the run: the first answer needs the key that follows its first token.
  EXPECT_GT(fine[1][0][n - 1][202].item<double>(), 0.99 * fine[1].sum().item<double>());
  const auto prev = fine[0][0];
  EXPECT_GT(prev[202][201].item<double>(), 0);
  // A weight of 1 leaves 1e-6 to the others in the kernel's count.
  EXPECT_LE((prev.sum() - prev.diagonal(-1).sum()).item<double>(), 2e-6 * prev.sum().item<double>());
  const std::vector<MoaProfile> profiles{MoaProfile(n, oracle_influence(prompt, MoaRule::kBlock))};
  MoaOptions options;
  options.step = 64;
  options.least = 0;
  for (const double density : {0.65, 0.8, 0.95}) {
    options.density = density;
    const auto plans = moa_pareto(profiles, options);
    const auto& plan = plans[best_at(plans, profiles[0])];
    // The last query, in block 9, needs block 3.
    EXPECT_GE(plan.rules[1][0].band(n), 7) << density;
    EXPECT_LE(plan.rules[0][0].band(n), plan.rules[1][0].band(n)) << density;
    // What is hidden are keys that share less than a hundredth of the weight.
    EXPECT_LE(plan.loss[0], 0.01 * fine[1].sum().item<double>()) << density;
  }
}

}  // namespace
}  // namespace heed::probe::moa_test
