// A vision transformer whose parts are named by configuration.
#include "heed/models/vision.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::vision_test {
namespace {

VisionConfig small() {
  VisionConfig config;
  config.dim = 24;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 6;
  config.hidden = 20;
  config.image_height = 12;
  config.image_width = 20;
  config.patch_height = config.patch_width = 4;
  config.labels = 3;
  config.layers.resize(2);
  return config;
}

TEST(Vision, MixersOfTokensAndChannelsAreNamed) {
  auto config = small();
  config.layers[1] = {"sliding_window", {{"window", 5}, {"sinks", 1}}};
  for (const bool class_token : {true, false})
    for (const char* channel_mixer : {"gated_mlp", "mlp"}) {
      config.class_token = class_token;
      config.block.channel_mixer = channel_mixer;
      VisionTransformer model(config);
      const auto pixels = torch::randn({2, 3, 12, 20});
      const auto hidden = model->forward(pixels);
      EXPECT_EQ(hidden.sizes(), (std::vector<int64_t>{2, 15 + class_token, 24}));
      model->logits(hidden).square().sum().backward();
      for (const auto& entry : model->named_parameters())
        EXPECT_TRUE(entry.value().grad().defined() && test::all_finite(entry.value().grad())) << entry.key();
    }
}

/// Every patch sees every other: nothing in an encoder is causal.
TEST(Vision, TheFirstPatchSeesTheLast) {
  torch::NoGradGuard no_grad;
  auto config = small();
  config.class_token = false;
  VisionTransformer model(config);
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  auto pixels = torch::randn({1, 3, 12, 20});
  const auto before = model->forward(pixels);
  pixels.slice(2, 8).slice(3, 16).add_(1);
  EXPECT_GT(test::relative_error(model->forward(pixels).select(1, 0), before.select(1, 0)), 1e-4);
}

TEST(Vision, WrongPartsAreNamed) {
  auto config = small();
  config.block.channel_mixer = "gated";
  EXPECT_THROW(VisionTransformer{config}, Error);
  config = small();
  config.layers[0].mixer = "dence";
  EXPECT_THROW(VisionTransformer{config}, Error);
  config = small();
  config.patch_width = 7;
  EXPECT_THROW(VisionTransformer{config}, Error);
}

}  // namespace
}  // namespace heed::vision_test
