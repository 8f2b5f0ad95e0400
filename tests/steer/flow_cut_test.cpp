// FlowCut: how many patches leave, which are left, and that nothing depends on their order.
#include "heed/steer/flow_cut.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::steer::flow_cut_test {
namespace {

using torch::Tensor;

constexpr int64_t kPatches = 48, kLayers = 8;

struct FlowCutTest : ::testing::Test {
  static VisionTransformer make(bool class_token = true) {
    torch::manual_seed(3);
    VisionConfig config;
    config.dim = 24;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 6;
    config.hidden = 20;
    config.image_height = 24;
    config.image_width = 32;
    config.patch_height = config.patch_width = 4;
    config.labels = 5;
    config.class_token = class_token;
    config.layers.resize(kLayers);
    VisionTransformer model(config);
    torch::NoGradGuard no_grad;
    for (auto& parameter : model->parameters())
      if (parameter.dim() == 2) parameter.normal_(0, 0.3);
    return model;
  }
  FlowCutTest() { x = model->embed(torch::randn({3, 3, 24, 32})).detach(); }

  VisionTransformer model = make();
  Tensor x;
  torch::NoGradGuard no_grad;
};

TEST_F(FlowCutTest, ATargetThatKeepsAllChangesNothing) {
  const auto pixels = torch::randn({2, 3, 24, 32});
  for (const int64_t target : {kPatches, int64_t{1000}}) {
    const auto cut = flow_cut(model, model->embed(pixels), {target});
    EXPECT_TRUE(torch::equal(cut.hidden, model->forward(pixels)));
    EXPECT_TRUE(torch::equal(cut.kept, torch::arange(kPatches).expand({2, kPatches})));
  }
}

TEST_F(FlowCutTest, EndsAtTheTargetAndNeverGrows) {
  for (const int64_t target : {1, 5, 30, 47}) {
    const auto cut = flow_cut(model, x, {target});
    EXPECT_EQ(cut.features.sizes(), (std::vector<int64_t>{3, target, 24}));
    EXPECT_EQ(cut.hidden.size(1), 1 + target);
    EXPECT_EQ(cut.counts.size(), kLayers - 1);
    EXPECT_EQ(cut.counts.back(), target);
    EXPECT_TRUE(std::is_sorted(cut.counts.rbegin(), cut.counts.rend()));
    for (int64_t b = 0; b < 3; ++b)
      for (int64_t i = 0; i < target; ++i) {
        const int64_t at = cut.kept[b][i].item<int64_t>();
        EXPECT_GE(at, i == 0 ? 0 : cut.kept[b][i - 1].item<int64_t>() + 1);
        EXPECT_LT(at, kPatches);
      }
  }
}

TEST_F(FlowCutTest, TheRateFollowsTheConcentration) {
  const auto uniform = torch::full({1, 40}, 0.3);
  auto one_hot = torch::zeros({1, 40});
  one_hot[0][7] = 0.2;
  for (const int64_t left : {2, 4, 6}) {
    EXPECT_EQ(patches_to_cut(uniform, 10, left), 0);
    EXPECT_EQ(patches_to_cut(one_hot, 10, left), std::llround(30 / std::sqrt(double(left))));
    EXPECT_EQ(patches_to_cut(torch::cat({uniform, one_hot}), 10, left), patches_to_cut(one_hot, 10, left));
  }
  EXPECT_EQ(patches_to_cut(uniform, 10, 0), 30);
  EXPECT_EQ(patches_to_cut(one_hot, 40, 2), 0);
  // Half of the patches share everything: the entropy is ln 20.
  auto half = torch::zeros({1, 40});
  half.slice(1, 0, 20) = 1;
  const double entropy = std::log(20.0) / std::log(40.0);
  EXPECT_EQ(patches_to_cut(half, 10, 4), std::llround(15 * (1 - entropy * entropy)));
}

/// The score of the card, layer by layer, with nothing of the code under test but the layers themselves.
TEST_F(FlowCutTest, KeepsThePatchesWithTheLargestScores) {
  const auto x0 = x.narrow(0, 0, 1);
  struct Values : Taps {
    void core_input(const LayerContext&, CoreInput& core) override { last = core; }
    CoreInput last;
  } taps;
  Tensor now = x0, running;
  const int64_t select = 2, target = 9;  // one cut only, after layer 1
  for (int64_t l = 0; l < 2; ++l) {
    MixerInput input;
    input.x = now;
    input.layer = {l, kLayers};
    input.taps = &taps;
    now = model->blocks[size_t(l)]->forward(input);
    const auto q = taps.last.q[0].to(torch::kFloat64), k = taps.last.k[0].to(torch::kFloat64),
               v = taps.last.v[0].to(torch::kFloat64);
    auto c = torch::zeros({kPatches}, torch::kFloat64), g = c.clone();
    for (int64_t h = 0; h < 4; ++h) {
      c += (k[h / 2].mv(q[h][0]) / std::sqrt(6.0)).softmax(0).slice(0, 1) / 4;
      g += v[h / 2].mv(v[h / 2][0]).softmax(0).slice(0, 1) / 4;
    }
    const auto size = v.mean(0).abs().sum(1).slice(0, 1);
    const auto score = (c / c.sum() + g / g.sum()) * size;
    running = running.defined() ? 0.5 * running + 0.5 * score : score;
  }
  const auto want = std::get<0>(std::get<1>(running.topk(target)).sort());
  const auto cut = flow_cut(model, x0, {target, select});
  EXPECT_TRUE(torch::equal(cut.kept[0], want));
  EXPECT_EQ(cut.counts, (std::vector<int64_t>{kPatches, target, target}));
}

TEST_F(FlowCutTest, ReorderedPatchesGiveTheSameSet) {
  const auto order = torch::randperm(kPatches, torch::kInt64);
  const auto mixed = torch::cat({x.slice(1, 0, 1), x.slice(1, 1).index_select(1, order)}, 1);
  const auto a = flow_cut(model, x, {12}), b = flow_cut(model, mixed, {12});
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_TRUE(torch::equal(a.kept[i], std::get<0>(order.index_select(0, b.kept[i]).sort())));
}

TEST_F(FlowCutTest, WorksWithoutAClassToken) {
  auto other = make(false);
  const auto tokens = other->embed(torch::randn({2, 3, 24, 32}));
  const auto cut = flow_cut(other, tokens, {7});
  EXPECT_EQ(cut.hidden.size(1), 7);
  EXPECT_TRUE(test::all_finite(cut.hidden));
}

TEST_F(FlowCutTest, OthersKeepAsMany) {
  const auto by_class = cut_by_class_attention(model, x, {8});
  const auto random = cut_at_random(model, x, {8}, 1), same = cut_at_random(model, x, {8}, 1);
  EXPECT_EQ(by_class.hidden.size(1), 9);
  EXPECT_EQ(random.features.size(1), 8);
  EXPECT_TRUE(torch::equal(random.kept, same.kept));
  EXPECT_FALSE(torch::equal(random.kept, by_class.kept));
}

TEST_F(FlowCutTest, BadOptionsAreRefused) {
  EXPECT_THROW(flow_cut(model, x, {0}), Error);
  EXPECT_THROW(flow_cut(model, x, {8, kLayers}), Error);
  EXPECT_THROW(flow_cut(model, x, {8, -kLayers - 1}), Error);
  EXPECT_THROW(flow_cut(model, x.narrow(2, 0, 20), {8}), Error);
}

}  // namespace
}  // namespace heed::steer::flow_cut_test
