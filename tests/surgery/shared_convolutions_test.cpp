// A vision transformer and its twin of shared convolutions are one function.
#include "heed/surgery/shared_convolutions.h"

#include <gtest/gtest.h>

#include "heed/checkpoint/encoder_checkpoint.h"
#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::surgery::shared_convolutions_test {
namespace {

using test::relative_error;

VisionConfig config_of(int64_t dim, bool biases) {
  VisionConfig c;
  c.dim = dim, c.heads = c.kv_heads = 2, c.head_dim = dim / 2, c.hidden = 3 * dim;
  c.image_height = 12, c.image_width = 20, c.patch_height = c.patch_width = 4;
  c.block = {formats::NormKind::layer, formats::NormPlacement::pre, "mlp", formats::Activation::gelu, biases};
  c.attention.qkv_bias = c.attention.output_bias = biases;
  c.labels = 3;
  c.layers.resize(2);
  return c;
}

TEST(SharedConvolutions, AreTheSameFunction) {
  torch::NoGradGuard no_grad;
  for (const int64_t dim : {16, 24})  // a square, and none
    for (const bool biases : {false, true})
      for (const bool optical : {false, true}) {
        torch::manual_seed(1);
        VisionTransformer model(config_of(dim, biases), torch::kFloat64);
        for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
        auto changed = with_shared_convolutions(model, optical);
        const auto pixels = torch::randn({2, 3, 12, 20}, torch::kFloat64);
        const auto wanted = model->logits(model->forward(pixels));
        EXPECT_LT(relative_error(changed->logits(changed->forward(pixels)), wanted), test::kDouble)
            << dim << " " << biases << " " << optical;
        EXPECT_EQ(changed->config().layers[1].mixer, "conv_share_attention");
      }
}

// The reading of a checkpoint of Hugging Face's is tested against transformers (tests/checkpoint).
TEST(SharedConvolutions, ACheckpointGivesItsLogits) {
  torch::NoGradGuard no_grad;
  auto model = checkpoint::load_vision(
      std::string(HEED_TEST_SOURCE_DIR) + "/checkpoint/fixtures/encoders/vit_classifier", torch::kFloat64);
  const auto& c = model->config();
  auto changed = with_shared_convolutions(model);
  const auto pixels = torch::randn({2, c.channels, c.image_height, c.image_width}, torch::kFloat64);
  EXPECT_LT(relative_error(changed->logits(changed->forward(pixels)), model->logits(model->forward(pixels))),
            test::kDouble);
}

TEST(SharedConvolutions, OtherLayersAreNamed) {
  auto config = config_of(16, true);
  config.layers[1].mixer = "rala";
  EXPECT_THROW(with_shared_convolutions(VisionTransformer(config)), Error);
  config = config_of(16, true);
  config.kv_heads = 1;
  EXPECT_THROW(with_shared_convolutions(VisionTransformer(config)), Error);
  config = config_of(16, true);
  config.block.channel_mixer = "gated_mlp";
  EXPECT_THROW(with_shared_convolutions(VisionTransformer(config)), Error);
}

}  // namespace
}  // namespace heed::surgery::shared_convolutions_test
