// Sinks that were planted are found, with the layer that made them; weights that tokens get are those of the formula.
#include "heed/probe/sinks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cache/small_model.h"
#include "heed/error.h"

namespace heed::probe::sinks_test {
namespace {

using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

constexpr int64_t kLayers = 6, kTokens = 40, kPlanted = 17, kAt = 2;

/// A decoder whose layers behind kAt leave the states as they are.
DecoderLm quiet_decoder() {
  auto model = small_decoder(4, 2, kLayers);
  torch::NoGradGuard no_grad;
  for (size_t l = kAt + 1; l < model->blocks.size(); ++l) {
    model->blocks[l]->mixer->named_parameters()["o_proj.weight"].zero_();
    model->blocks[l]->mlp->output_weight().zero_();
  }
  return model;
}

/// Adds c times the first token's direction to one token's MLP output, and enough to the first token's own that its
/// state grows most here.
struct Plant : Taps {
  Plant(const Tensor& direction, double c) : direction(direction), c(c) {}
  void mlp_output(const LayerContext& layer, Tensor& added) override {
    if (layer.index != kAt) return;
    added = added.clone();
    added[0][0] += 100 * direction;
    added[0][kPlanted] += c * direction;
  }
  Tensor direction;
  double c;
};

struct SinksTest : ::testing::Test {
  SinksTest() {
    Plant none(torch::zeros({32}), 0);
    direction = find_sinks(model, tokens, {}, &none).directions[kAt];
  }
  SinkReport planted(double c) {
    Plant plant(direction, c);
    return find_sinks(model, tokens, {}, &plant);
  }
  const Sink* found(const SinkReport& report) {
    for (const auto& sink : report.sinks)
      if (sink.token == kPlanted) return &sink;
    return nullptr;
  }

  DecoderLm model = quiet_decoder();
  Tensor tokens = random_tokens(1, kTokens, 3), direction;
};

TEST_F(SinksTest, APlantedSinkIsFoundWithItsLayerAndLifetime) {
  const auto report = planted(200);
  EXPECT_EQ(report.begin, kAt);
  EXPECT_EQ(report.end, kLayers);
  const auto* sink = found(report);
  ASSERT_NE(sink, nullptr);
  EXPECT_EQ(sink->created, kAt);
  EXPECT_EQ(sink->lifetime, kLayers - kAt);  // nothing behind changes it
  EXPECT_EQ(sink->level, SinkLevel::primary);
  EXPECT_TRUE(sink->by_mlp);
  ASSERT_FALSE(sink->stages.empty());
  EXPECT_EQ(sink->stages.front().first, "input");
  EXPECT_EQ(sink->stages.back().first, "down");
  EXPECT_EQ(found(planted(0)), nullptr);
}

TEST(SinkLevel, OfDeepModelsCountsLayersAndOfOthersShares) {
  // 36 layers: all but 15 are 21, whatever the first token's own lifetime is.
  EXPECT_EQ(sink_level(21, 29, 36), SinkLevel::primary);
  EXPECT_EQ(sink_level(20, 20, 36), SinkLevel::secondary);
  EXPECT_EQ(sink_level(5, 29, 36), SinkLevel::secondary);
  EXPECT_EQ(sink_level(4, 4, 36), SinkLevel::noise);
  // 12 layers, the first token lives for 10: shares of 0.8 and 0.15.
  EXPECT_EQ(sink_level(8, 10, 12), SinkLevel::primary);
  EXPECT_EQ(sink_level(7, 10, 12), SinkLevel::secondary);
  EXPECT_EQ(sink_level(2, 10, 12), SinkLevel::secondary);
  EXPECT_EQ(sink_level(1, 10, 12), SinkLevel::noise);
}

TEST_F(SinksTest, TheCosineGrowsWithWhatIsPlanted) {
  double before = -1;
  for (const double c : {0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0}) {
    const double cosine = planted(c).cosines[kAt][kPlanted].item<double>();
    EXPECT_GT(cosine, before) << c;
    before = cosine;
  }
  EXPECT_GT(before, 0.99);
}

/// Two edits after each other.
struct Both : Taps {
  Both(Taps& first, Taps& second) : first(first), second(second) {}
  void mlp_output(const LayerContext& layer, Tensor& added) override {
    first.mlp_output(layer, added);
    second.mlp_output(layer, added);
  }
  Taps &first, &second;
};

TEST_F(SinksTest, SteeringTheMlpToZeroRemovesTheSinkAndRaisingItBringsItBack) {
  const auto report = planted(200);
  Plant plant(direction, 200);
  const auto under = [&](double norm) {
    SinkSteering steering(report.mlp, 0, kLayers, norm);
    Both both(plant, steering);
    return find_sinks(model, tokens, {}, &both);
  };
  EXPECT_EQ(found(under(0)), nullptr);
  const auto strong = under(150);
  ASSERT_NE(found(strong), nullptr);
  EXPECT_NEAR(strong.norms[kAt][0].item<double>(), report.norms[kAt][0].item<double>(), 1e-3);  // spared
}

TEST_F(SinksTest, WeightsThatTokensGetAddUpToAllThatIsNotTheirOwn) {
  auto model = small_decoder(4, 2, 2);
  SinkOptions options;
  options.threshold = 0.05;
  options.least_queries = 8;
  const auto report = find_sinks(model, tokens, options);
  EXPECT_FALSE(report.later.empty());
  struct Own : Taps {
    void core_input(const LayerContext&, CoreInput& core) override {
      const auto k = core.k[0].to(torch::kFloat64).repeat_interleave(2, 0);
      auto logits = core.q[0].to(torch::kFloat64).matmul(k.transpose(1, 2)) / 4;
      logits.masked_fill_(torch::ones({kTokens, kTokens}, torch::kBool).triu(1), -INFINITY);
      weights.push_back(logits.softmax(2));
    }
    std::vector<Tensor> weights;  // [H, N, N]
  } taps;
  torch::NoGradGuard no_grad;
  model->hidden(tokens, nullptr, 0, &taps);
  const auto behind = torch::arange(kTokens - 1, -1, -1, torch::kFloat64);
  for (int64_t l = 0; l < 2; ++l) {
    const auto a = taps.weights[size_t(l)].tril(-1);
    EXPECT_NEAR((report.scores[l] * behind).sum().item<double>(), a.sum().item<double>() / 4, 1e-3);
    const auto first = a.select(2, 0).sum(1) / double(kTokens - 1);
    EXPECT_LE((report.first[l] - first).abs().max().item<double>(), 1e-5);
    for (const auto& sink : report.later) {
      if (sink.layer != l) continue;
      const auto column = taps.weights[size_t(l)][sink.head].select(1, sink.token);
      EXPECT_NEAR(sink.weight, column.sum().item<double>() / double(kTokens - sink.token), 1e-5);
    }
  }
}

TEST_F(SinksTest, WithoutMlpsNothingIsMadeByThem) {
  auto model = small_decoder(4, 2, kLayers);
  torch::NoGradGuard no_grad;
  for (auto& block : model->blocks) block->mlp->output_weight().zero_();
  SinkOptions options;
  options.cosine = 0.3;  // so low that there are candidates
  const auto report = find_sinks(model, tokens, options);
  EXPECT_FALSE(report.sinks.empty());
  for (const auto& sink : report.sinks) EXPECT_FALSE(sink.by_mlp) << sink.token;
}

TEST_F(SinksTest, ChannelsOfSinksAreThoseThatStandOut) {
  auto model = small_decoder(4, 2, 3);
  torch::NoGradGuard no_grad;
  auto embedding = model->named_parameters()["embed_tokens.weight"];
  embedding.select(0, tokens[0][0].item<int64_t>())[5] = 1000;
  EXPECT_EQ(sink_channels(model, tokens, 5), std::vector<int64_t>{5});
  EXPECT_TRUE(sink_channels(model, tokens, 6).empty());  // sqrt(32) is the most there can be
}

TEST_F(SinksTest, BadInputIsRefused) {
  EXPECT_THROW(find_sinks(model, tokens.narrow(1, 0, 2)), Error);
  EXPECT_THROW(find_sinks(model, random_tokens(2, 10, 1)), Error);
  EXPECT_THROW(find_sinks(model, tokens, {.cosine = 1.5}), Error);
  EXPECT_THROW(SinkSteering(torch::zeros({1, 1}), 0, 1, -1), Error);
}

}  // namespace
}  // namespace heed::probe::sinks_test
