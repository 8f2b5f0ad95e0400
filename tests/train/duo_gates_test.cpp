// Gates of DuoAttention: what they cost, their gradient, and the optimum that is known.
#include "heed/train/duo_gates.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cache/oracle_induction.h"
#include "cache/small_model.h"
#include "heed/error.h"
#include "heed/models/head_order.h"

namespace heed::train::duo_gates_test {
namespace {

using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

DuoOptions narrow() {
  DuoOptions options;
  options.sinks = 3;
  options.recent = 20;
  return options;
}

const std::vector<DuoOptions::FullFrom> kSources{DuoOptions::FullFrom::teacher, DuoOptions::FullFrom::student};

TEST(DuoGates, AllFullCostsNothingAtAll) {
  auto model = small_decoder();
  const auto tokens = random_tokens(2, 120, 1);
  auto options = narrow();
  for (const auto source : kSources) {
    options.full_from = source;
    EXPECT_EQ(duo_distance(model, tokens, 30, torch::ones({2, 2}), options).item<double>(), 0);
    EXPECT_GT(duo_distance(model, tokens, 30, torch::tensor({{1.0f, 1.0f}, {1.0f, 0.9f}}), options).item<double>(), 0);
  }
}

TEST(DuoGates, AllStreamingIsStreamingLlmAtAbsolutePositions) {
  torch::NoGradGuard no_grad;
  auto model = small_decoder();
  const auto tokens = random_tokens(2, 120, 2);
  auto state =
      cache::make_state(model,
                        cache::make_policy("streaming_llm", {{"positions", "absolute"}, {"sinks", 3}, {"window", 20}},
                                           cache::shape_of(model->config())),
                        2);
  const auto off = (model->hidden(tokens) - model->hidden(tokens, &state)).slice(1, 90).square().mean().item<double>();
  ASSERT_GT(off, 1e-3);
  for (const auto source : kSources) {
    auto options = narrow();
    options.full_from = source;
    EXPECT_NEAR(duo_distance(model, tokens, 30, torch::zeros({2, 2}), options).item<double>(), off, 1e-5 * off);
  }
}

TEST(DuoGates, GradientsAreThoseOfDifferences) {
  auto model = small_decoder();
  model->to(torch::kFloat64);
  const auto tokens = random_tokens(1, 70, 3);
  auto options = narrow();
  options.recent = 10;
  for (const auto source : kSources) {
    options.full_from = source;
    const auto distance = [&](const Tensor& gates) { return duo_distance(model, tokens, 25, gates, options); };
    for (const double a : {0.3, 0.5, 0.7}) {
      auto gates = torch::full({2, 2}, a, torch::kFloat64);
      gates[0][1] = a + 0.1;
      gates.requires_grad_();
      distance(gates).backward();
      torch::NoGradGuard no_grad;
      constexpr double kStep = 1e-4;
      for (int64_t l = 0; l < 2; ++l)
        for (int64_t h = 0; h < 2; ++h) {
          auto up = gates.detach().clone(), down = up.clone();
          up[l][h] += kStep;
          down[l][h] -= kStep;
          const double want = (distance(up) - distance(down)).item<double>() / (2 * kStep);
          EXPECT_NEAR(gates.grad()[l][h].item<double>(), want, 1e-3 * std::abs(want)) << a << " " << l << " " << h;
        }
    }
  }
  for (const auto& parameter : model->parameters()) {
    EXPECT_FALSE(parameter.grad().defined());
    EXPECT_TRUE(parameter.requires_grad());
  }
}

/// The induction oracle with a gate on each of its two heads. The run lies outside the window of 64.
class GatedOracle {
 public:
  static constexpr int64_t kTokens = testing::OracleInduction::kTokens, kDim = testing::OracleInduction::kDim;

  GatedOracle() {
    options.sinks = 1;
    options.recent = 64;
    auto tokens = testing::OracleInduction::prompt(200, 60, 5);
    for (int64_t t = 51; t < 55; ++t) tokens.push_back(t);
    const int64_t n = int64_t(tokens.size());
    nn::PositionsConfig rope;
    rope.kind = "rope";
    nn::Positions rotary(rope, kTokens, 1, true);
    one_hot = torch::one_hot(torch::tensor(tokens), kTokens).to(torch::kFloat32).view({1, 1, n, kTokens});
    const auto positions = torch::arange(n);
    const auto toward = torch::cat({torch::ones({kTokens / 2}), torch::zeros({kTokens / 2})}).expand_as(one_hot);
    q0 = 20 * rotary->rotate(toward, positions - 1);
    k0 = rotary->rotate(toward, positions);
    q1 = widened(one_hot);
    q1.select(3, kTokens).fill_(1);
    AttentionOptions causal;
    causal.mask = Causal{};
    causal.scale = 1;
    prev = attention(q0, k0, one_hot, causal);
    ind = attention(q1, keys(prev), one_hot, causal);
  }

  Tensor distance(const Tensor& gates) const {
    const auto before = gated_heads(q0, k0, one_hot, prev, gates[0], options, 1);
    const auto out = gated_heads(q1, keys(before), one_hot, ind, gates[1], options, 1);
    return (out - ind).slice(2, one_hot.size(2) - 5).square().mean();
  }

  DuoOptions options;

 private:
  static Tensor widened(const Tensor& x) { return torch::constant_pad_nd(x, {0, kDim - kTokens}); }
  static Tensor keys(const Tensor& before) {
    auto sink = torch::zeros({1, 1, before.size(2), kDim});
    sink[0][0][0][kTokens] = 6;
    return widened(12 * before) + sink;
  }

  Tensor one_hot, q0, k0, q1, prev, ind;
};

TEST(DuoGates, TrainingReachesTheOptimumOfTheOracle) {
  const GatedOracle oracle;
  const auto at = [&](double prev, double ind) {
    torch::NoGradGuard no_grad;
    return oracle.distance(torch::tensor({{float(prev)}, {float(ind)}})).item<double>();
  };
  const double c = at(1, 0);
  EXPECT_LE(c, 2.0 / 64);  // each answer is moved from one token to another at most
  EXPECT_GT(c, 1.0 / 64);
  for (const double prev : {0.0, 0.4, 1.0})
    for (const double ind : {0.0, 0.3, 0.8})
      EXPECT_NEAR(at(prev, ind), (1 - ind) * (1 - ind) * c, 1e-4 * c) << prev << " " << ind;
  for (const double lambda : {0.05, 0.2}) {
    auto options = oracle.options;
    options.steps = 300;
    options.lambda = lambda;
    const auto training =
        train_gates(2, 1, options, [&](const Tensor& gates, int64_t) { return oracle.distance(gates); });
    EXPECT_NEAR(training.gates[0][0].item<double>(), 0, 0.02);
    EXPECT_NEAR(training.gates[1][0].item<double>(), std::max(0.0, 1 - lambda / (2 * c * 2)), 0.02) << lambda;
  }
}

TEST(DuoGates, TheRateRisesStaysAndFalls) {
  EXPECT_DOUBLE_EQ(duo_rate(0, 2000), 0.1);
  EXPECT_DOUBLE_EQ(duo_rate(199, 2000), 0.5);
  for (const int64_t t : {399, 1000, 1600}) EXPECT_DOUBLE_EQ(duo_rate(t, 2000), 1);
  EXPECT_DOUBLE_EQ(duo_rate(1800, 2000), 0.5);
  EXPECT_DOUBLE_EQ(duo_rate(1999, 2000), 0.1);
}

TEST(DuoGates, LayersWithoutPlainAttentionHaveNone) {
  auto config = small_decoder()->config();
  config.layers[0] = {"sliding_window", {{"window", 16}}};
  torch::manual_seed(4);
  DecoderLm model(config);
  auto options = narrow();
  options.steps = 3;
  const auto training = train_duo_gates(model, options, [](int64_t step) {
    return LabelledTokens{random_tokens(1, 60, step), 10};
  });
  EXPECT_TRUE(torch::equal(training.gates[0], torch::ones({2})));
  EXPECT_LT(training.gates[1].max().item<double>(), 1);
}

TEST(DuoGates, BadOptionsAreRefused) {
  auto model = small_decoder();
  const auto tokens = random_tokens(1, 60, 1);
  EXPECT_THROW(duo_distance(model, tokens, 61, torch::ones({2, 2}), {}), Error);
  EXPECT_THROW(duo_distance(model, tokens, 0, torch::ones({2, 2}), {}), Error);
  const auto train = [&](DuoOptions options) {
    train_duo_gates(model, options, [&](int64_t) { return LabelledTokens{tokens, 10}; });
  };
  EXPECT_THROW(train({.steps = 0}), Error);
  EXPECT_THROW(train({.learning_rate = 0}), Error);
  EXPECT_THROW(train({.lambda = -1}), Error);
  EXPECT_THROW(train({.recent = 0}), Error);
  auto alibi = small_decoder()->config();
  alibi.positions.kind = "alibi";
  DecoderLm other(alibi);
  EXPECT_THROW(duo_distance(other, tokens, 10, torch::ones({2, 2}), {}), Error);
}

TEST(HeadOrder, LeavesLogitsAsTheyAre) {
  torch::NoGradGuard no_grad;
  auto config = small_decoder(6, 3)->config();
  config.attention.qkv_bias = config.attention.output_bias = true;
  torch::manual_seed(6);
  DecoderLm model(config);
  for (auto& p : model->named_parameters()) p.value().add_(torch::randn_like(p.value()) * 0.2);
  const auto tokens = random_tokens(2, 50, 7);
  const auto before = model->forward(tokens);
  const auto weight = [&] { return model->blocks[1]->mixer->named_parameters()["k_proj.weight"].clone(); };
  const auto k = weight();
  reorder_kv_heads(model, 1, {2, 0, 1});
  EXPECT_TRUE(torch::equal(weight().slice(0, 0, 16), k.slice(0, 32)));
  EXPECT_LE(testing::largest_difference(model->forward(tokens), before) / before.abs().max().item<double>(), 1e-6);
  for (const std::vector<int64_t>& order : std::vector<std::vector<int64_t>>{{0, 1}, {0, 1, 1}, {0, 1, 3}, {-1, 0, 1}})
    EXPECT_THROW(reorder_kv_heads(model, 0, order), Error);
  EXPECT_THROW(reorder_kv_heads(model, 2, {0, 1, 2}), Error);
}

}  // namespace
}  // namespace heed::train::duo_gates_test
