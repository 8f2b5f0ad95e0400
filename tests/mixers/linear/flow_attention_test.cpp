// The card of flow_attention: conservation, formulas of both forms, padding.
#include <gtest/gtest.h>

#include "mixers/linear/linear_support.h"

namespace heed::flow_attention_test {
namespace {

using test::kDouble;
using test::random_core;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

TEST(FlowAttention, EqualTokensCompeteForEqualShares) {
  torch::manual_seed(13);
  const auto one = [](int64_t n) { return torch::randn({1, 2, 1, 5}, torch::kFloat64).expand({1, 2, n, 5}); };
  const auto v = torch::randn({1, 2, 9, 5}, torch::kFloat64);
  auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", false}, {"eps", 0.0}});
  const auto out = mixer->mix({one(9), one(9), v});
  const auto expected = torch::sigmoid(torch::ones({1}, torch::kFloat64)) * v.mean(2, true);
  EXPECT_LT(relative_error(out, expected.expand_as(out)), kDouble);
}

TEST(FlowAttention, TheLengthOfAllKeysOrQueriesDoesNotMatter) {
  // sigmoid(x) times a: sigmoid(x') = a sigmoid(x) for all entries, so inputs are made from the wanted features.
  torch::manual_seed(14);
  const auto features = torch::rand({1, 2, 9, 5}, torch::kFloat64) * 0.4 + 0.05,
             other = torch::rand({1, 2, 9, 5}, torch::kFloat64) * 0.4 + 0.05;
  const auto v = torch::randn({1, 2, 9, 5}, torch::kFloat64);
  auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", false}, {"eps", 0.0}});
  const auto out = mixer->mix({torch::logit(other), torch::logit(features), v});
  EXPECT_LT(relative_error(mixer->mix({torch::logit(other), torch::logit(2 * features), v}), out), kDouble);
  EXPECT_LT(relative_error(mixer->mix({torch::logit(2 * other), torch::logit(features), v}), out), kDouble);
}

/// flow_attention without causal and eps by its formulas, with what flows named.
struct Flows {
  Tensor into_sinks, out_of_sources, competition, out;  ///< Ih [.., n, 1], Oh, m softmax(Oh), R
};
Flows flows(const CoreInput& in) {
  const auto q = torch::sigmoid(in.q), k = torch::sigmoid(in.k);
  const double n = double(q.size(2)), m = double(k.size(2));
  const auto map = torch::matmul(q, k.transpose(2, 3));
  const auto incoming = map.sum(3, true), outgoing = map.sum(2, true);
  Flows f;
  f.into_sinks = (map / outgoing).sum(3, true);
  f.out_of_sources = (map / incoming).sum(2, true);
  f.competition = m * torch::softmax(f.out_of_sources, 3);
  f.out = torch::sigmoid(f.into_sinks * (n / m)) * torch::matmul(map / incoming * f.competition, in.v);
  return f;
}

TEST(FlowAttention, ConservesWhatFlows) {
  torch::manual_seed(15);
  const auto draw = [](int64_t n) { return torch::randn({2, 2, n, 5}, torch::kFloat64); };
  const CoreInput in{draw(11), draw(17), draw(17)};
  const auto f = flows(in);
  EXPECT_LT(relative_error(f.into_sinks.sum(2), torch::full({2, 2, 1}, 17.0)), kDouble);
  EXPECT_LT(relative_error(f.out_of_sources.sum(3), torch::full({2, 2, 1}, 11.0)), kDouble);
  EXPECT_LT(relative_error(f.competition.sum(3), torch::full({2, 2, 1}, 17.0)), kDouble);
  auto mixer =
      wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", false}, {"eps", 0.0}, {"clamp", 80.0}});
  EXPECT_LT(relative_error(mixer->mix(in), f.out), kDouble);
}

/// Causal flow_attention of one head without eps, token by token: q, k [N, d], v [N, dv].
Tensor causal_flows(const Tensor& q_logits, const Tensor& k_logits, const Tensor& v, double clamp) {
  const auto q = torch::sigmoid(q_logits), k = torch::sigmoid(k_logits), map = torch::matmul(q, k.t());
  const int64_t tokens = q.size(0);
  const auto flow = [&](int64_t sink, int64_t source) { return map[sink][source].item<double>(); };
  std::vector<double> incoming(size_t(tokens), 0), outgoing(size_t(tokens), 0), strength;
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t j = 0; j <= i; ++j) incoming[size_t(i)] += flow(i, j), outgoing[size_t(i)] += flow(j, i);
  for (int64_t i = 0; i < tokens; ++i) {
    double into = 0, out_of = 0;
    for (int64_t j = 0; j <= i; ++j) {
      const double share = double(j + 1) / double(i + 1);
      into += flow(i, j) * share / outgoing[size_t(j)];
      out_of += flow(j, i) * share / incoming[size_t(j)];
    }
    strength.push_back(std::exp(std::clamp(out_of, -clamp, clamp)));
    auto row = torch::zeros_like(v[0]);
    double all = 0;
    for (int64_t j = 0; j <= i; ++j) {
      all += strength[size_t(j)];
      row += flow(i, j) / incoming[size_t(i)] * (double(j + 1) * strength[size_t(j)] / all) * v[j];
    }
    rows.push_back(row / (1 + std::exp(-into)));
  }
  return torch::stack(rows);
}

TEST(FlowAttention, CausalFlowsAreSumsOverThePast) {
  torch::manual_seed(26);
  const auto in = random_core(2, 19, 5);
  for (const double clamp : {1.0, 80.0}) {
    auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"clamp", clamp}, {"eps", 0.0}});
    const auto out = mixer->mix(in);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 2; ++h)
        EXPECT_LT(relative_error(out[b][h], causal_flows(in.q[b][h], in.k[b][h], in.v[b][h], clamp)), kDouble) << clamp;
  }
}

TEST(FlowAttention, ACausalTokenMovesItsOwnOutputAndLaterOnes) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(27);
  constexpr int64_t kTokens = 12;
  auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}});
  const auto in = test::random_tokens(1, kTokens, 10);
  const auto out = mixer->forward(in);
  for (int64_t s = 0; s < kTokens; ++s) {
    auto changed = in;
    changed.x = in.x.clone();
    changed.x[0][s].add_(1);
    const auto moved = (mixer->forward(changed) - out).abs().amax({0, 2});
    for (int64_t t = 0; t < kTokens; ++t)
      if (t < s)
        EXPECT_EQ(moved[t].item<double>(), 0) << s << " " << t;
      else
        EXPECT_GT(moved[t].item<double>(), 1e-9) << s << " " << t;
  }
}

TEST(FlowAttention, PaddingWithoutEpsIsAsIfItWereNotThere) {
  torch::manual_seed(16);
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", causal}, {"eps", 0.0}});
    MixerInput in, rest;
    in.x = torch::randn({2, 13, 10}, torch::kFloat64).requires_grad_();
    in.key_padding = torch::zeros({2, 13}, torch::kBool);
    in.key_padding->select(0, 0).slice(0, 0, 4).fill_(true);
    in.key_padding->select(0, 1).fill_(true);
    const auto out = mixer->forward(in);
    EXPECT_TRUE(test::all_finite(out)) << causal;
    EXPECT_TRUE(test::all_finite(torch::autograd::grad({out.square().sum()}, {in.x})[0])) << causal;
    rest.x = in.x.narrow(0, 0, 1).slice(1, 4);
    EXPECT_LT(relative_error(out.narrow(0, 0, 1).slice(1, 4), mixer->forward(rest)), kDouble) << causal;
  }
}

}  // namespace
}  // namespace heed::flow_attention_test
