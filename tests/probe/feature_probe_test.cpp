// The card of probes whose queries attend to raw tokens.
#include "heed/probe/feature_probe.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::probe::feature_probe_test {
namespace {

using test::relative_error;
using torch::Tensor;

std::shared_ptr<EfficientProbe> probe_of(int64_t queries, int64_t shrink = 1) {
  torch::manual_seed(1);
  auto probe = std::make_shared<EfficientProbe>(12, 3, queries, shrink);
  torch::NoGradGuard no_grad;
  probe->queries.normal_();
  probe->to(torch::kFloat64);
  probe->eval();
  return probe;
}

Tensor tokens_of() { return torch::randn({2, 9, 12}, torch::kFloat64); }

TEST(EfficientProbe, PoolsThenProjectsAsTheOtherWayRound) {
  torch::NoGradGuard no_grad;
  for (const int64_t shrink : {1, 2}) {
    const auto probe = probe_of(3, shrink);
    const auto x = tokens_of();
    const auto maps = probe->maps(x);
    EXPECT_LT(relative_error(maps.sum(2), torch::ones({2, 3})), 1e-12);
    const auto values = torch::matmul(x, probe->values.t()).chunk(3, 2);
    std::vector<Tensor> parts;
    for (int64_t m = 0; m < 3; ++m) parts.push_back(torch::matmul(maps.narrow(1, m, 1), values[size_t(m)]).squeeze(1));
    EXPECT_LT(relative_error(probe->pooled(x), torch::cat(parts, 1)), 1e-12);
  }
}

TEST(EfficientProbe, WithoutQueriesItIsAMean) {
  torch::NoGradGuard no_grad;
  const auto probe = probe_of(4);
  probe->queries.zero_();
  const auto x = tokens_of();
  EXPECT_LT(relative_error(probe->pooled(x), torch::matmul(x.mean(1), probe->values.t())), 1e-12);
}

TEST(EfficientProbe, OrderDoesNotMatter) {
  torch::NoGradGuard no_grad;
  const auto probe = probe_of(4);
  const auto x = tokens_of();
  const auto before = probe->pooled(x);
  EXPECT_LT(relative_error(probe->pooled(x.flip({1})), before), 1e-12);
  // Other orders of queries move parts of what is read.
  const auto order = torch::tensor({2, 0, 3, 1});
  probe->queries.copy_(probe->queries.index_select(0, order).clone());
  probe->values.copy_(probe->values.view({4, 3, 12}).index_select(0, order).reshape({12, 12}).clone());
  EXPECT_LT(relative_error(probe->pooled(x), before.view({2, 4, 3}).index_select(1, order).flatten(1)), 1e-12);
}

TEST(FeatureProbe, LearnsWhichTokenCounts) {
  // A marked token among noise says the class; the mean of all hides it.
  torch::manual_seed(2);
  const auto draw = [](int64_t count) {
    auto tokens = torch::randn({count, 24, 16});
    const auto labels = torch::randint(4, {count}, torch::kInt64), places = torch::randint(24, {count}, torch::kInt64);
    for (int64_t s = 0; s < count; ++s) {
      auto token = tokens[s][places[s].item<int64_t>()];
      token.zero_();
      token[0] = 8;
      token[1 + labels[s].item<int64_t>()] = 3;
    }
    return Features{tokens, labels};
  };
  const auto train = draw(600), test = draw(200);
  const auto accuracy = [&](const char* name) {
    torch::manual_seed(3);
    const auto probe = make_feature_probe(name, 16, 4, 4);
    train_probe(*probe, train, {});
    return probe_accuracy(*probe, test);
  };
  const double mean = accuracy("mean"), efficient = accuracy("efficient");
  EXPECT_GT(efficient, 0.9);
  EXPECT_LT(mean, efficient - 0.1);
  EXPECT_GT(accuracy("multi_head"), mean);
}

TEST(FeatureProbe, NoGradientReachesTheTokens) {
  auto x = torch::randn({4, 5, 8}).requires_grad_();
  const auto probe = make_feature_probe("efficient", 8, 2, 2);
  FeatureProbeOptions few;
  few.steps = 2;
  train_probe(*probe, {x * 1, torch::tensor({0, 1, 0, 1})}, few);
  EXPECT_FALSE(x.grad().defined());
}

TEST(FeatureProbe, OverlapOfMaps) {
  torch::NoGradGuard no_grad;
  const auto probe = probe_of(3);
  const auto x = tokens_of();
  const double apart = map_overlap(*probe, x);
  EXPECT_GT(apart, 0);
  EXPECT_LT(apart, 0.999);
  probe->queries.copy_(probe->queries.narrow(0, 0, 1).expand_as(probe->queries).clone());
  EXPECT_NEAR(map_overlap(*probe, x), 1, 1e-9);
}

TEST(FeatureProbe, WrongSizesAreNamed) {
  EXPECT_THROW(EfficientProbe(12, 3, 5), Error);
  EXPECT_THROW(EfficientProbe(12, 3, 4, 5), Error);
  EXPECT_THROW(make_feature_probe("efficent", 12, 3), Error);
}

}  // namespace
}  // namespace heed::probe::feature_probe_test
