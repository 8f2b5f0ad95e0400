// VAR: which tokens are sinks, which heads change, and what becomes of the weights, by the formula.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "steer/weights.h"

namespace heed::steer::var_redistribution_test {
namespace {

using nlohmann::json;
using testing::most;
using testing::one_hot_text;
using testing::plain_weights;
using testing::weights_under;
using torch::Tensor;

constexpr int64_t kLength = 50, kBegin = 4, kEnd = 28, kPrompt = 40, kChannels = 30;
constexpr double kRounding = 1e-5;
const std::vector<int64_t> kSinks{0, 7, 19, 33, 44};  // two in the image; the last comes after the prompt

/// The residual stream: noise, and at the sinks one of two channels far above it.
Tensor stream() {
  torch::manual_seed(2);
  auto x = torch::randn({2, kLength, kChannels}) * 0.1;
  for (const int64_t t : kSinks) x.select(1, t).select(1, t % 2 ? 11 : 23).fill_(t % 3 ? 8 : -8);
  return x;
}

json settings(double kept = 0.6, double least = 0.2, double most_sinks = 0.5) {
  return {{"spans", {{kBegin, kEnd}}}, {"channels", {11, 23}},    {"tau", 4}, {"kept", kept},
          {"least_mass", least},       {"most_sinks", most_sinks}};
}

struct Expected {
  Tensor weights, changed;  // double [B, H, N, N]; bool [B, H, N]
};

Expected expected(const Tensor& a, double kept, double least, double most_sinks) {
  auto sinks = torch::zeros({kLength}, torch::kBool), image = torch::zeros({kLength}, torch::kBool);
  for (const int64_t t : kSinks) sinks[t] = t < kPrompt;
  image.slice(0, kBegin, kEnd) = true;
  const auto mass = [&](const Tensor& keys) { return (a * keys).sum(3, true); };
  const auto of_image = mass(image), portion = mass(image & sinks) / of_image;
  const auto after = (torch::arange(kLength) >= kEnd).view({1, 1, -1, 1});
  const auto changed = after & (of_image >= least) & (portion <= most_sinks);
  const auto removed = (1 - kept) * mass(sinks);
  const auto others = image & ~sinks;
  auto b = torch::where(sinks, kept * a, a);
  b = torch::where(others, a * (1 + removed / mass(others).clamp_min(1e-300)), b);
  return {torch::where(changed, b, a), changed.squeeze(3)};
}

TEST(VarRedistribution, FollowsTheFormula) {
  const auto text = one_hot_text(2, 4, 2, kLength, 5);
  const auto a = plain_weights(text);
  for (const double kept : {0.0, 0.6})
    for (const int64_t chunk : {kPrompt, int64_t{7}, int64_t{1}}) {
      const auto want = expected(a, kept, 0.2, 0.5);
      const auto got = weights_under("var_redistribution", settings(kept), text, kPrompt, chunk, stream());
      EXPECT_LE(most(got - want.weights), kRounding) << kept << " " << chunk;
      EXPECT_LE(most(got.sum(3) - 1), kRounding);
      EXPECT_GT(most(got - a), 0.02);
      // There are rows behind the image that change and rows that do not.
      const auto behind = want.changed.slice(2, kEnd);
      EXPECT_TRUE(behind.any().item<bool>());
      EXPECT_FALSE(behind.all().item<bool>());
    }
}

TEST(VarRedistribution, RowsThatFailAConditionAreUntouchedToTheBit) {
  const auto text = one_hot_text(2, 4, 2, kLength, 6);
  const auto plain = weights_under(
      "var_redistribution",
      [&] {
        auto s = settings();
        s["heads"] = "none";
        return s;
      }(),
      text, kPrompt, kPrompt, stream());
  const auto a = plain_weights(text);
  const auto got = weights_under("var_redistribution", settings(), text, kPrompt, kPrompt, stream());
  const auto changed = expected(a, 0.6, 0.2, 0.5).changed.unsqueeze(3);
  EXPECT_EQ(most((got - plain).masked_fill(changed, 0)), 0);
  EXPECT_TRUE(
      torch::equal(weights_under("var_redistribution", settings(0.6, 1), text, kPrompt, kPrompt, stream()), plain));
  EXPECT_LE(most(weights_under("var_redistribution", settings(1), text, kPrompt, kPrompt, stream()) - plain),
            kRounding);
}

TEST(VarRedistribution, OthersKeepTheirWeightsAndTheImageItsProportions) {
  const auto text = one_hot_text(1, 4, 2, kLength, 7);
  const auto a = plain_weights(text);
  const auto got =
      weights_under("var_redistribution", settings(0.1, 0.01, 1), text, kPrompt, kPrompt, stream().narrow(0, 0, 1));
  std::vector<int64_t> outside, image;
  for (int64_t t = 0; t < kLength; ++t) {
    if (std::find(kSinks.begin(), kSinks.end(), t) != kSinks.end() && t < kPrompt) continue;
    (t >= kBegin && t < kEnd ? image : outside).push_back(t);
  }
  const auto pick = [](const Tensor& x, const std::vector<int64_t>& keys) {
    return x.slice(2, kEnd).index_select(3, torch::tensor(keys));
  };
  EXPECT_LE(most(pick(got, outside) - pick(a, outside)), kRounding);
  const auto ratio = [&](const Tensor& x) {
    const auto part = pick(x, image);
    return part / part.sum(3, true);
  };
  EXPECT_LE(most(ratio(got) - ratio(a)), 1e-4);
}

TEST(VarRedistribution, ZeroedChannelsMakeATokenNoSink) {
  const auto text = one_hot_text(1, 4, 2, kLength, 8);
  auto x = stream().narrow(0, 0, 1).clone();
  for (const int64_t channel : {11, 23}) x.select(2, channel).zero_();
  EXPECT_TRUE(torch::equal(weights_under("var_redistribution", settings(), text, kPrompt, kPrompt, x),
                           weights_under("var_redistribution", settings(0.6, 1), text, kPrompt, kPrompt, x)));
}

TEST(VarRedistribution, BadSettingsAreRefused) {
  const auto with = [](const char* key, json value) {
    auto s = settings();
    s[key] = std::move(value);
    return s;
  };
  cache::ModelShape shape{1, 4, 2, 16, 4096, {}};
  shape.dim = kChannels;
  EXPECT_NO_THROW(make_intervention("var_redistribution", settings(), shape));
  for (const json& s : std::vector<json>{
           json::object(), with("spans", json::array()), with("spans", "all"), with("spans", {{5, 5}}),
           with("spans", {{5, -1}}), with("spans", {{5, 1e300}}), with("channels", json::array()),
           with("channels", {30}), with("channels", {-1}), with("kept", 1.1), with("least_mass", -1), with("tau", -2)})
    EXPECT_THROW(make_intervention("var_redistribution", s, shape), Error) << s.dump();
}

}  // namespace
}  // namespace heed::steer::var_redistribution_test
