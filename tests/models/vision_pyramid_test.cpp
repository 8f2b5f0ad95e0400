// The pyramid's stages, its heads, and channel mixers that see a cell's neighbours.
#include "heed/models/vision_pyramid.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::vision_pyramid_test {
namespace {

using torch::Tensor;

VisionSpec spec_of(int64_t height, int64_t width, bool dense = false) {
  auto spec = test::vision_spec(2, height, width);
  spec.dense = dense;
  return spec;
}

TEST(VisionPyramid, StagesHalveTheGridAndWiden) {
  torch::NoGradGuard no_grad;
  VisionPyramid model(PyramidConfig::growing(spec_of(10, 14)));  // 5 x 7 patches
  const auto features = model->features(torch::randn({2, 1, 10, 14}));
  const std::vector<std::vector<int64_t>> expected{{2, 35, 16}, {2, 12, 32}, {2, 4, 48}, {2, 1, 64}};
  ASSERT_EQ(features.size(), 4u);
  for (size_t s = 0; s < 4; ++s) EXPECT_EQ(features[s].sizes().vec(), expected[s]) << s;
}

struct LayerCounter : Taps {
  std::vector<std::pair<int64_t, int64_t>> seen;
  void block_input(const LayerContext& layer, Tensor&) override { seen.emplace_back(layer.index, layer.count); }
};

TEST(VisionPyramid, TapsCountLayersThroughAllStages) {
  torch::NoGradGuard no_grad;
  VisionPyramid model(PyramidConfig::growing(spec_of(8, 8), 3));
  LayerCounter taps;
  model->features(torch::randn({1, 1, 8, 8}), 0, &taps);
  const std::vector<std::pair<int64_t, int64_t>> expected{{0, 6}, {1, 6}, {2, 6}, {3, 6}, {4, 6}, {5, 6}};
  EXPECT_EQ(taps.seen, expected);
}

TEST(VisionPyramid, GatesMultiplyWhatTheNextStageSees) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  VisionPyramid model(PyramidConfig::growing(spec_of(8, 8), 3));
  const auto pixels = torch::randn({2, 1, 8, 8}), others = torch::randn({2, 1, 8, 8});
  const std::vector<Tensor> open{torch::ones({2, 16, 1}), torch::ones({2, 4, 1}), torch::ones({2, 1, 1})};
  const auto plain = model->features(pixels), opened = model->features(pixels, 0, nullptr, open);
  for (size_t s = 0; s < 3; ++s) EXPECT_TRUE(torch::equal(plain[s], opened[s]));
  auto closed = open;
  closed[1] = torch::zeros_like(closed[1]);
  EXPECT_TRUE(
      torch::equal(model->features(pixels, 0, nullptr, closed)[2], model->features(others, 0, nullptr, closed)[2]));
  EXPECT_THROW(model->features(pixels, 0, nullptr, {open[0]}), Error);
}

/// Each stage reaches the cells it stands for: with the others' maps at 0, what is read is its own, interpolated.
TEST(VisionPyramid, DenseStatesAreASumOverStages) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  VisionPyramid model(PyramidConfig::growing(spec_of(8, 8, true), 3));
  const auto pixels = torch::randn({1, 1, 8, 8});
  const auto all = model->states(pixels);
  Tensor sum = torch::zeros_like(all);
  for (const char* kept : {"stage_0", "stage_1", "stage_2"}) {
    std::vector<std::pair<Tensor, Tensor>> saved;
    for (auto& entry : model->named_parameters())
      if (entry.key().find("lateral") != std::string::npos && !entry.key().starts_with(kept)) {
        saved.emplace_back(entry.value(), entry.value().clone());
        entry.value().zero_();
      }
    ASSERT_EQ(saved.size(), 4u);
    const auto part = model->states(pixels);
    if (std::string(kept) == "stage_2") {  // one cell for all
      EXPECT_LT(test::relative_error(part, part.mean(1, true).expand_as(part)), 1e-6);
    }
    sum += part;
    for (auto& [value, before] : saved) value.copy_(before);
  }
  EXPECT_LT(test::relative_error(sum, all), 1e-5);
}

TEST(ChannelMixer, CentredKernelsArePlain) {
  torch::manual_seed(4);
  torch::NoGradGuard no_grad;
  formats::BlockConfig block;
  block.activation = formats::Activation::gelu;
  const Grid grid{{3, 5}};
  const auto x = torch::randn({2, 15, 6});
  for (const auto& [plain_name, conv_name] : {std::pair{"gated_mlp", "conv_glu"}, {"mlp", "conv_mlp"}}) {
    block.channel_mixer = plain_name;
    const auto plain = make_channel_mixer(block, 6, 10);
    block.channel_mixer = conv_name;
    const auto conv = make_channel_mixer(block, 6, 10);
    auto target = conv->named_parameters();
    for (const auto& entry : plain->named_parameters()) target[entry.key()].copy_(entry.value());
    const auto before = conv->forward(x, grid);
    EXPECT_GT(test::relative_error(before, plain->forward(x, grid)), 1e-2) << conv_name;
    auto weight = target["conv.weight"];
    weight.zero_();
    weight.select(3, 1).select(2, 1).fill_(1);
    EXPECT_LT(test::relative_error(conv->forward(x, grid), plain->forward(x, grid)), 1e-6) << conv_name;
    EXPECT_THROW(conv->forward(x, std::nullopt), Error);
    EXPECT_THROW(conv->stages(x), Error);
  }
}

}  // namespace
}  // namespace heed::vision_pyramid_test
