// Maps of a vision transformer over a picture, and the picture with a map on it.
#include "heed/probe/picture_attention.h"

#include <gtest/gtest.h>

#include <fstream>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::probe::picture_attention_test {
namespace {

using test::relative_error;

VisionTransformer model_of(bool class_token) {
  torch::manual_seed(1);
  VisionConfig c;
  c.dim = 16, c.heads = 4, c.kv_heads = 2, c.head_dim = 4, c.hidden = 16;
  c.image_height = 12, c.image_width = 20, c.patch_height = c.patch_width = 4;
  c.class_token = class_token;
  c.labels = 3;
  c.layers.resize(2);
  VisionTransformer model(c);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return model;
}

formats::Picture picture_of(int64_t height, int64_t width) {
  formats::Picture picture{height, width, {}};
  for (int64_t i = 0; i < 3 * height * width; ++i) picture.rgb.push_back(uint8_t(i * 31));
  return picture;
}

TEST(PictureAttention, MapsAreRowsOfWeights) {
  for (const bool class_token : {true, false}) {
    auto model = model_of(class_token);
    const auto pixels = pixels_of(picture_of(30, 41), model->config(), {});
    ASSERT_EQ(pixels.sizes(), (std::vector<int64_t>{1, 3, 12, 20}));
    const auto maps = picture_maps(model, pixels);
    EXPECT_EQ(maps.heads.sizes(), (std::vector<int64_t>{2, 4, 3, 5}));
    EXPECT_EQ(maps.rollout.sizes(), (std::vector<int64_t>{3, 5}));
    const auto sums = maps.heads.flatten(2).sum(2);
    if (class_token) {
      EXPECT_LT(sums.max().item<double>(), 1);  // the token sees itself, too
    } else {
      EXPECT_LT(relative_error(sums, torch::ones({2, 4})), 1e-5);
    }
    EXPECT_NEAR(maps.probabilities.sum().item<double>(), 1, 1e-5);
  }
}

TEST(PictureAttention, ColoursAreTheModels) {
  formats::Picture red{8, 8, {}};
  for (int i = 0; i < 64; ++i) red.rgb.insert(red.rgb.end(), {255, 0, 51});
  const auto model = model_of(true);
  PictureNorm norm;
  norm.mean = {0.2, 0.1, 0.2}, norm.deviation = {0.4, 0.5, 1};
  const auto pixels = pixels_of(red, model->config(), norm);
  EXPECT_LT((pixels[0][0] - 2).abs().max().item<double>(), 1e-5);
  EXPECT_LT((pixels[0][1] + 0.2).abs().max().item<double>(), 1e-5);
  EXPECT_LT(pixels[0][2].abs().max().item<double>(), 1e-5);
}

TEST(PictureAttention, OneChannelIsGrey) {
  formats::Picture picture{8, 8, {}};
  for (int i = 0; i < 64; ++i) picture.rgb.insert(picture.rgb.end(), {255, 0, 51});
  auto config = model_of(true)->config();
  config.channels = 1;
  const auto pixels = pixels_of(picture, config, {.mean = {0, 0, 0}, .deviation = {1, 1, 1}});
  ASSERT_EQ(pixels.sizes(), (std::vector<int64_t>{1, 1, config.image_height, config.image_width}));
  EXPECT_LT((pixels - (0.299 + 0.2 * 0.114)).abs().max().item<double>(), 1e-5);
}

TEST(PictureAttention, NormsComeFromTheCheckpoint) {
  const auto folder = std::filesystem::temp_directory_path() / "heed_picture_norm_test";
  std::filesystem::create_directories(folder);
  EXPECT_EQ(PictureNorm::of(folder).mean[0], 0.5);
  const auto write = [&](const char* text) { std::ofstream(folder / "preprocessor_config.json") << text; };
  write(R"({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]})");
  EXPECT_EQ(PictureNorm::of(folder).mean[2], 0.3);
  EXPECT_EQ(PictureNorm::of(folder).deviation[1], 2);
  for (const char* text : {R"({"image_mean": [0.1]})", R"({"image_std": [1, 0, 1]})", R"({"image_std": "a"})"}) {
    write(text);
    EXPECT_THROW(PictureNorm::of(folder), Error) << text;
  }
  std::filesystem::remove_all(folder);
}

TEST(PictureAttention, OverlaysAreWarmWhereMostIsLookedAt) {
  formats::Picture grey{40, 60, std::vector<uint8_t>(7200, 100)};
  auto map = torch::zeros({2, 3});
  map[0][0] = 0.2;
  const auto picture = overlay(grey, map);
  ASSERT_EQ(picture.height, 40);
  EXPECT_EQ(picture.at(39, 59)[0], 100);
  EXPECT_EQ(picture.at(39, 59)[2], 100);
  EXPECT_GT(picture.at(0, 0)[0], 180);
  EXPECT_LT(picture.at(0, 0)[2], 60);
  EXPECT_EQ(overlay(grey, map, 30).width, 30);
  EXPECT_EQ(overlay(grey, map, 30).height, 20);
}

TEST(PictureAttention, OtherModelsAreNamed) {
  auto config = model_of(true)->config();
  config.channels = 2;
  EXPECT_THROW(pixels_of(picture_of(4, 4), config, {}), Error);
  config.channels = 3, config.class_token = false;
  config.layers[0].mixer = "rala";
  VisionTransformer model(config);
  EXPECT_THROW(picture_maps(model, torch::randn({1, 3, 12, 20})), Error);
}

}  // namespace
}  // namespace heed::probe::picture_attention_test
