// Text of a model whose positions end.
#include <gtest/gtest.h>

#include "heed/cache/generate.h"
#include "heed/error.h"

namespace heed::learned_positions_test {
namespace {

DecoderLm model_of(int64_t positions) {
  DecoderConfig config;
  config.vocab_size = 256;
  config.dim = 16;
  config.heads = config.kv_heads = 2;
  config.head_dim = 8;
  config.hidden = 32;
  config.learned_positions = config.max_length = positions;
  config.layers.resize(1);
  torch::manual_seed(3);
  return DecoderLm(config);
}

TEST(LearnedPositions, EndTheText) {
  auto model = model_of(12);
  const auto policy = cache::make_policy("full", {}, cache::shape_of(model->config()));
  for (const int64_t prompt : {1, 11, 12}) {
    cache::Session session(model, policy);
    const auto got = cache::generate(session, formats::Tokenizer::bytes(), std::vector<int64_t>(size_t(prompt), 65),
                                     {.max_tokens = 100});
    EXPECT_EQ(got.ids.size(), size_t(12 - prompt + 1));
    EXPECT_EQ(got.finish, cache::Finish::length);
    EXPECT_EQ(session.seen(), 12);
  }
  cache::Session session(model, policy);
  EXPECT_THROW(cache::generate(session, formats::Tokenizer::bytes(), std::vector<int64_t>(13, 65), {}), Error);
  EXPECT_EQ(session.seen(), 0);
}

TEST(LearnedPositions, LeaveRoomBehindAPrompt) {
  const auto config = model_of(12)->config();
  EXPECT_EQ(cache::room_behind(config, 4), 9);
  EXPECT_THROW(cache::room_behind(config, 13), Error);
  auto rope = config;
  rope.learned_positions = 0;
  EXPECT_EQ(cache::room_behind(rope, 1 << 20), INT64_MAX);
}

TEST(Sampling, OfAnInfiniteLogitIsRefused) {
  EXPECT_THROW(cache::sample(torch::tensor({0.0f, INFINITY}), {}, 0), Error);
  EXPECT_THROW(cache::sample(torch::tensor({-INFINITY, -INFINITY}), {}, 0), Error);
  EXPECT_EQ(cache::sample(torch::tensor({-INFINITY, 0.0f}), {.temperature = 1e-320}, 0), 1);
}

}  // namespace
}  // namespace heed::learned_positions_test
