// Learned positions for longer input.
#include "heed/surgery/tiled_positions.h"

#include <gtest/gtest.h>

#include "cache/small_model.h"
#include "heed/error.h"

namespace heed::surgery::tiled_positions_test {
namespace {

using testing::largest_difference;
using torch::Tensor;

DecoderConfig learned(bool of_layers) {
  DecoderConfig config;
  config.vocab_size = 20, config.dim = 16, config.heads = 2, config.kv_heads = 2, config.head_dim = 8;
  config.hidden = 24, config.max_length = 6;
  config.layers.assign(2, {"masformer", {{"window", 3}, {"full", 1}}});
  if (of_layers)
    config.positions.kind = "learned", config.positions.max_length = 6;
  else
    config.learned_positions = 6;
  return config;
}

/// Rows over and over: a token that every layer sees alone is at place i what it was at place i mod 6.
TEST(TiledPositions, PlacesBeyondTheTableAreThoseOfItsRows) {
  torch::NoGradGuard no_grad;
  for (const bool of_layers : {false, true}) {
    torch::manual_seed(1);
    DecoderLm model(learned(of_layers));
    auto config = model->config();
    config.max_length = 15;
    lengthen_positions(config, 15);
    DecoderLm longer(config);
    take_weights(longer, model);
    auto old = model->named_parameters();
    int64_t tables = 0;
    for (const auto& entry : longer->named_parameters()) {
      const auto& from = old[entry.key()];
      if (from.sizes() == entry.value().sizes()) {
        EXPECT_TRUE(torch::equal(from, entry.value())) << entry.key();
        continue;
      }
      ++tables;
      ASSERT_EQ(entry.value().size(0), 15) << entry.key();
      for (int64_t i = 0; i < 15; ++i) EXPECT_TRUE(torch::equal(entry.value()[i], from[i % 6])) << entry.key() << i;
    }
    EXPECT_EQ(tables, of_layers ? 2 : 1);
    const auto tokens = torch::randint(0, 20, {2, 6}, torch::kInt64);
    EXPECT_LT(largest_difference(longer->forward(tokens), model->forward(tokens)), 1e-5);
    EXPECT_EQ(longer->forward(torch::randint(0, 20, {1, 15}, torch::kInt64)).size(1), 15);
    EXPECT_THROW(model->forward(torch::randint(0, 20, {1, 15}, torch::kInt64)), Error);
  }
}

TEST(TakeWeights, NamesWhatHasNoPlace) {
  DecoderConfig config;
  config.vocab_size = 20, config.dim = 16, config.heads = 2, config.kv_heads = 1, config.head_dim = 8;
  config.hidden = 24, config.attention.qkv_bias = true;
  config.positions.kind = "rope";
  config.layers.resize(4);
  DecoderLm model(config), same(config);
  EXPECT_EQ(take_weights(same, model), "");
  config.attention.qkv_bias = false;
  for (const size_t layer : {0, 1, 3}) config.layers[layer].mixer = "linear_attention";
  DecoderLm changed(config);
  EXPECT_EQ(take_weights(changed, model),
            "begin anew: self_attn.k_proj.weight of [16, 16] for [8, 16], self_attn.v_proj.weight of [16, 16] for "
            "[8, 16] in layers 0-1, 3; not taken over: self_attn.q_proj.bias, self_attn.k_proj.bias, "
            "self_attn.v_proj.bias in layers 0-3; without rope positions: linear_attention in layers 0-1, 3");
}

TEST(TiledPositions, OtherModelsStayAsTheyAre) {
  DecoderConfig config;
  config.positions.kind = "rope";
  const auto rows = config.positions.max_length;
  lengthen_positions(config, 1 << 20);
  EXPECT_EQ(config.learned_positions, 0);
  EXPECT_EQ(config.positions.max_length, rows);
  // A table never becomes shorter.
  config = learned(false);
  lengthen_positions(config, 3);
  EXPECT_EQ(config.learned_positions, 6);
}

}  // namespace
}  // namespace heed::surgery::tiled_positions_test
