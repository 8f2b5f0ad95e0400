// ACT: which tokens are sinks, and what becomes of the weights, by the formula.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "steer/weights.h"

namespace heed::steer::act_calibration_test {
namespace {

using nlohmann::json;
using testing::most;
using testing::one_hot_text;
using testing::plain_weights;
using testing::weights_under;
using torch::Tensor;

constexpr int64_t kLength = 60, kSink = 21;
constexpr double kRounding = 1e-5;

/// Keys of one token in one KV head point where the queries of its group do.
testing::LayerText planted_text(uint64_t seed) {
  auto text = one_hot_text(2, 4, 2, kLength, seed);
  text.encoding = nn::Positions(nn::PositionsConfig(), 64, 4, true);
  text.q.slice(3, 0, 1) = 6;
  text.k.slice(3, 0, 1) = 0;
  text.k.select(1, 1).select(1, kSink).select(1, 0).fill_(6);
  return text;
}

/// The formula over explicit weights of the prompt, whose sinks steps keep.
Tensor expected(const Tensor& a, int64_t prompt, double threshold, double beta) {
  auto sums = a.slice(2, 0, prompt).sum(2);
  const auto queries = (prompt - torch::arange(kLength)).clamp_min(1);
  auto sinks = (sums / queries > threshold) & (prompt - torch::arange(kLength) >= 8);
  sinks.select(2, 0) = false;
  const auto among = sinks.unsqueeze(2);
  const auto mass = (a * among).sum(3, true), rest = (a * among.logical_not()).sum(3, true);
  const auto damped = torch::where(among, beta * a, a * (1 + (1 - beta) * mass / rest.clamp_min(1e-300)));
  return torch::where(rest > 0, damped, a);
}

TEST(ActCalibration, FollowsTheFormula) {
  for (const double beta : {0.0, 0.4, 0.9}) {
    const auto text = planted_text(3);
    const auto a = plain_weights(text);
    const auto got = weights_under("act_calibration", {{"beta", beta}, {"threshold", 0.06}}, text, 50, 50);
    EXPECT_LE(most(got - expected(a, 50, 0.06, beta)), kRounding);
    EXPECT_LE(most(got.sum(3) - 1), kRounding);
    EXPECT_GE(got.min().item<double>(), 0);
    EXPECT_GT(most(got - a), 0.05);
  }
}

TEST(ActCalibration, APlantedSinkIsFoundInItsHeadsOnly) {
  const auto text = planted_text(4);
  const auto a = plain_weights(text);
  const auto got = weights_under("act_calibration", {{"threshold", 0.3}}, text, kLength, kLength);
  for (const int64_t h : {0, 1}) EXPECT_LE(most(got.select(1, h) - a.select(1, h)), kRounding);
  for (const int64_t h : {2, 3}) {
    const auto before = a.select(1, h).slice(1, kSink).select(2, kSink);
    EXPECT_GT(before.mean().item<double>(), 0.3);
    EXPECT_LE(most(got.select(1, h).slice(1, kSink).select(2, kSink) - 0.4 * before), kRounding);
  }
}

TEST(ActCalibration, WithoutDampingOrSinksNothingChanges) {
  const auto text = planted_text(5);
  const auto full = [&](const testing::LayerText& t) {
    return weights_under("act_calibration", {{"heads", "none"}}, t, 50, 50);
  };
  EXPECT_LE(most(weights_under("act_calibration", {{"beta", 1}}, text, 50, 50) - full(text)), kRounding);
  EXPECT_TRUE(torch::equal(weights_under("act_calibration", {{"threshold", 1}}, text, 50, 50), full(text)));
  auto uniform = text;
  uniform.q = torch::zeros_like(uniform.q);
  EXPECT_TRUE(torch::equal(weights_under("act_calibration", {}, uniform, 50, 50), full(uniform)));
}

TEST(ActCalibration, DampingToNothingIsMasking) {
  const auto text = planted_text(6);
  auto a = plain_weights(text);
  auto masked = a.clone();
  masked.slice(1, 2, 4).select(3, kSink).zero_();
  masked /= masked.sum(3, true);
  const auto got = weights_under("act_calibration", {{"beta", 0}, {"threshold", 0.3}}, text, kLength, kLength);
  EXPECT_LE(most(got - masked), kRounding);
}

TEST(ActCalibration, RowsThatSeeOnlySinksStayAsTheyAre) {
  auto text = planted_text(7);
  text.k.select(1, 1).select(1, kSink).select(1, 0).fill_(400);  // all weight, to the last bit of a float
  const auto got = weights_under("act_calibration", {{"beta", 0}, {"threshold", 0.3}}, text, kLength, kLength);
  EXPECT_TRUE(torch::isfinite(got).all().item<bool>());
  EXPECT_EQ(got[0][2][kLength - 1][kSink].item<double>(), 1);
}

TEST(ActCalibration, StepsMayLookAgain) {
  auto text = planted_text(8);
  // Nothing in the prompt, everything behind it.
  const int64_t prompt = 12;
  const auto frozen = weights_under("act_calibration", {{"threshold", 0.5}}, text, prompt, prompt);
  const auto again = weights_under("act_calibration", {{"threshold", 0.5}, {"update", "step"}}, text, prompt, prompt);
  const auto a = plain_weights(text);
  EXPECT_LE(most(frozen - a), kRounding);
  const auto last = a.select(1, 2).select(1, kLength - 1).select(1, kSink);
  EXPECT_LE(most(again.select(1, 2).select(1, kLength - 1).select(1, kSink) - 0.4 * last), kRounding);
}

TEST(ActCalibration, BadSettingsAreRefused) {
  for (const json& settings : std::vector<json>{{{"beta", 1.5}},
                                                {{"beta", -0.1}},
                                                {{"threshold", 2}},
                                                {{"least_queries", 0}},
                                                {{"update", "never"}},
                                                {{"heads", {{0, 9}}}},
                                                {{"heads", "/no/such/file.json"}},
                                                {{"first_layer", -1}},
                                                {{"betta", 1}}})
    EXPECT_THROW(make_intervention("act_calibration", settings, {1, 4, 2, 16, 4096, {}}), Error) << settings.dump();
  EXPECT_THROW(make_intervention("act_calibraton", {}, {1, 4, 2, 16, 4096, {}}), Error);
}

}  // namespace
}  // namespace heed::steer::act_calibration_test
