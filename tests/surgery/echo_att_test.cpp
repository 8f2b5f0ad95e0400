// Layers that share one attention map: what stays the same, where gradients go, what steps hold.
#include "heed/surgery/echo_att.h"

#include <gtest/gtest.h>

#include "cache/small_model.h"
#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "heed/surgery/distill.h"

namespace heed::surgery::echo_att_test {
namespace {

using testing::largest_difference;
using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

Tensor weight(DecoderLm& model, const std::string& name) { return model->named_parameters()[name]; }

std::string of_layer(int64_t layer, const char* rest) { return "layers_" + std::to_string(layer) + "." + rest; }

TEST(EchoAtt, BlocksOfOneLayerAreTheModelItself) {
  torch::NoGradGuard no_grad;
  auto model = small_decoder();
  auto same = share_attention(model, {{0, 1}, {1, 2}});
  const auto tokens = random_tokens(2, 50, 1);
  EXPECT_TRUE(torch::equal(model->forward(tokens), same->forward(tokens)));
  EXPECT_TRUE(same->config().is_llama());
}

TEST(EchoAtt, FollowersOfEqualScoresChangeNothing) {
  torch::NoGradGuard no_grad;
  for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{4, 2}, {4, 4}, {4, 1}}) {
    auto model = small_decoder(heads, kv_heads, 3);
    // Layers 1 and 2 get what layer 0 gets, and ask the same of it.
    for (const int64_t l : {0, 1}) {
      weight(model, of_layer(l, "self_attn.o_proj.weight")).zero_();
      weight(model, of_layer(l, "mlp.down_proj.weight")).zero_();
    }
    for (const int64_t l : {1, 2})
      for (const char* projection : {"self_attn.q_proj.weight", "self_attn.k_proj.weight"})
        weight(model, of_layer(l, projection)).copy_(weight(model, of_layer(0, projection)));
    auto shared = share_attention(model, {{0, 3}});
    const auto tokens = random_tokens(2, 61, 2);
    const auto expected = model->forward(tokens);
    EXPECT_LT(largest_difference(shared->forward(tokens), expected), 1e-5 * expected.abs().max().item<double>());
    int64_t removed = 0;
    for (const auto& p : model->parameters()) removed += p.numel();
    for (const auto& p : shared->parameters()) removed -= p.numel();
    EXPECT_EQ(removed, 2 * 32 * 16 * (heads + kv_heads));
    // And it is the leader's map that counts.
    weight(shared, of_layer(0, "self_attn.q_proj.weight")).mul_(-1);
    EXPECT_GT(largest_difference(shared->forward(tokens), expected), 1e-2);
  }
}

TEST(EchoAtt, GradientReachesTheLeaderFromEveryFollower) {
  auto model = small_decoder(4, 2, 4);
  auto shared = share_attention(model, {{0, 4}});
  shared->to(torch::kFloat64);
  const auto tokens = random_tokens(1, 23, 3);
  std::vector<Tensor> outputs;
  for (int64_t l = 0; l < 4; ++l)
    outputs.push_back(weight(shared, of_layer(l, "self_attn.o_proj.weight")).detach().clone());
  torch::manual_seed(4);
  const auto weights = torch::randn({1, 23, 40}, torch::kFloat64);
  const auto value = [&] { return (shared->forward(tokens) * weights).sum(); };
  for (int64_t follower = 1; follower < 4; ++follower) {
    {
      torch::NoGradGuard no_grad;
      for (int64_t l = 0; l < 4; ++l)
        weight(shared, of_layer(l, "self_attn.o_proj.weight")).copy_(outputs[size_t(l)] * (l == follower));
    }
    for (const char* projection : {"self_attn.q_proj.weight", "self_attn.k_proj.weight"}) {
      auto parameter = weight(shared, of_layer(0, projection));
      const auto grad = torch::autograd::grad({value()}, {parameter})[0];
      torch::NoGradGuard no_grad;
      const auto direction = torch::randn_like(parameter);
      constexpr double kStep = 1e-5;
      parameter.add_(direction, kStep);
      const double up = value().item<double>();
      parameter.add_(direction, -2 * kStep);
      const double down = value().item<double>();
      parameter.add_(direction, kStep);
      const double along = (grad * direction).sum().item<double>();
      EXPECT_GT(grad.norm().item<double>(), 1e-3) << follower << " " << projection;
      EXPECT_NEAR((up - down) / (2 * kStep), along,
                  1e-6 * grad.norm().item<double>() * direction.norm().item<double>());
    }
  }
}

TEST(EchoAtt, StepsWithStoredRowsAreTheWholeAndRecomputation) {
  torch::NoGradGuard no_grad;
  struct Nothing : Taps {
  } watched;  // followers make the weights anew under taps
  for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{4, 2}, {4, 4}}) {
    auto model = small_decoder(heads, kv_heads, 4);
    auto shared = share_attention(model, {{1, 4}});
    for (const int64_t batch : {1, 3}) {
      const auto tokens = random_tokens(batch, 40, 5);
      const auto whole = shared->forward(tokens);
      auto stored = shared->make_state(batch), recomputed = shared->make_state(batch);
      for (const auto& [from, n] : {std::pair<int64_t, int64_t>{0, 7}, {7, 1}, {8, 13}, {21, 1}, {22, 1}, {23, 17}}) {
        const auto part = tokens.narrow(1, from, n);
        const auto a = shared->forward(part, &stored), b = shared->forward(part, &recomputed, 0, &watched);
        const double size = whole.abs().max().item<double>();
        EXPECT_LT(largest_difference(a, whole.narrow(1, from, n)), 1e-5 * size) << from;
        EXPECT_LT(largest_difference(a, b), 1e-5 * size) << from;
      }
      // A follower holds values alone.
      EXPECT_EQ(stored.layers[2]->bytes() * 2, stored.layers[1]->bytes());
      auto copy = stored.layers[2]->clone();
      copy->truncate(9);
      EXPECT_EQ(copy->seen(), 9);
      EXPECT_EQ(stored.layers[2]->seen(), 40);
    }
  }
}

TEST(EchoAtt, APolicyServesTheOtherLayers) {
  torch::NoGradGuard no_grad;
  auto model = small_decoder(4, 2, 4);
  auto shared = share_attention(model, {{1, 3}});
  const auto tokens = random_tokens(1, 90, 6);
  const auto shape = cache::shape_of(shared->config());
  cache::Session full(shared, cache::make_policy("full", {}, shape), 1, 32);
  cache::Session narrow(shared, cache::make_policy("streaming_llm", {{"sinks", 2}, {"window", 10}}, shape), 1, 32);
  const auto whole = shared->forward(tokens).select(1, 89);
  full.prefill(tokens.narrow(1, 0, 80));
  narrow.prefill(tokens.narrow(1, 0, 80));
  EXPECT_LT(largest_difference(full.steps(tokens.narrow(1, 80, 10)).select(1, 9), whole),
            1e-5 * whole.abs().max().item<double>());
  EXPECT_GT(largest_difference(narrow.steps(tokens.narrow(1, 80, 10)).select(1, 9), whole), 1e-3);
  EXPECT_LT(narrow.cache_bytes(), full.cache_bytes());
}

TEST(EchoAtt, SimilarityIsTheCosineOfTheMaps) {
  torch::NoGradGuard no_grad;
  auto model = small_decoder(4, 2, 3);
  const std::vector<Tensor> texts{random_tokens(2, 70, 7), random_tokens(1, 33, 8)};
  const auto similarity = map_similarity(model, texts);
  struct Maps : Taps {
    void core_input(const LayerContext&, CoreInput& core) override {
      const auto k = core.k.repeat_interleave(core.q.size(1) / core.k.size(1), 1).to(torch::kFloat64);
      const auto s = torch::matmul(core.q.to(torch::kFloat64), k.transpose(2, 3)) / 4;  // head size 16
      const auto hidden = torch::ones({s.size(2), s.size(3)}, torch::kBool).triu(1);
      maps.push_back(s.masked_fill(hidden, -INFINITY).softmax(-1));
    }
    std::vector<Tensor> maps;
  };
  auto whole = torch::zeros({3, 3}, torch::kFloat64), rest = whole.clone();
  int64_t heads = 0;
  for (const auto& text : texts) {
    Maps seen;
    model->hidden(text, nullptr, 0, &seen);
    heads += seen.maps[0].size(0) * seen.maps[0].size(1);
    for (int64_t a = 0; a < 3; ++a)
      for (int64_t b = 0; b < 3; ++b) {
        const auto cosine = [&](int64_t from) {
          const auto x = seen.maps[size_t(a)].slice(3, from).flatten(2),
                     y = seen.maps[size_t(b)].slice(3, from).flatten(2);
          return ((x * y).sum(2) / (x.norm(2, 2) * y.norm(2, 2))).sum();
        };
        whole[a][b] += cosine(0);
        rest[a][b] += cosine(1);
      }
  }
  EXPECT_LT(largest_difference(similarity.whole, whole / heads), 1e-5);
  EXPECT_LT(largest_difference(similarity.without_first, rest / heads), 1e-5);
  EXPECT_TRUE(torch::equal(similarity.whole, similarity.whole.t()));
  EXPECT_TRUE(torch::equal(similarity.whole.diagonal(), torch::ones({3}, torch::kFloat64)));
}

TEST(EchoAtt, BlocksAreChosenBySimilarity) {
  auto similarity = torch::eye(9, torch::kFloat64);
  const auto alike = [&](int64_t a, int64_t b, double s) { similarity[a][b] = similarity[b][a] = s; };
  alike(1, 2, 0.95);
  alike(3, 4, 0.7);
  alike(5, 6, 0.92);
  using Blocks = std::vector<LayerBlock>;
  EXPECT_EQ(similar_blocks(similarity, {.first = 1, .last = 2, .size = 2, .least = 0.9}), (Blocks{{1, 3}, {5, 7}}));
  EXPECT_EQ(similar_blocks(similarity, {.first = 1, .last = 2, .size = 2, .least = 0.6}),
            (Blocks{{1, 3}, {3, 5}, {5, 7}}));
  alike(4, 3, 0.5);
  alike(5, 3, 0.5);
  alike(5, 4, 0.8);
  EXPECT_NEAR(mean_similarity(similarity, {3, 6}), 0.6, 1e-12);
  // The last block is what is left, and one layer is none.
  EXPECT_EQ(similar_blocks(similarity, {.first = 2, .last = 2, .size = 3, .least = -1}), (Blocks{{2, 5}, {5, 7}}));
  EXPECT_EQ(similar_blocks(similarity, {.first = 3, .last = 2, .size = 3, .least = -1}), (Blocks{{3, 6}}));
  EXPECT_EQ(parse_blocks("2-3,4-6"), (Blocks{{2, 4}, {4, 7}}));
  EXPECT_EQ(to_string(Blocks{{2, 4}, {4, 7}}), "2-3,4-6");
}

TEST(EchoAtt, WhatDoesNotFitIsRefused) {
  auto model = small_decoder(4, 2, 3);
  for (const char* text : {"", "2", "2-", "-3", "2-3,", "2-3;4-5", "a-b", "2-99999999999999999999"})
    EXPECT_THROW(parse_blocks(text), Error) << text;
  using Blocks = std::vector<LayerBlock>;
  for (const auto& blocks : {Blocks{{0, 2}, {1, 3}}, Blocks{{1, 4}}, Blocks{{-1, 1}}, Blocks{{2, 2}}})
    EXPECT_THROW(share_attention(model, blocks), Error) << to_string(blocks);
  auto shared = share_attention(model, {{0, 2}});
  EXPECT_THROW(share_attention(shared, {{1, 3}}), Error);
  auto config = shared->config();
  std::swap(config.layers[0], config.layers[2]);
  DecoderLm headless(config);  // its follower comes before any leader
  std::swap(config.layers[1], config.layers[0]);
  EXPECT_THROW(DecoderLm(config)->forward(random_tokens(1, 5, 9)), Error);
}

TEST(Distillation, ACopyCostsNothingAndTrainingBringsTheStudentNearer) {
  auto model = small_decoder(4, 2, 4);
  auto shared = share_attention(model, {{1, 3}});
  const auto batch = [](uint64_t seed) { return train::LmBatch{random_tokens(8, 33, seed), torch::ones({8, 32})}; };
  const DistillWeights distance{.labels = 0};
  auto copy = share_attention(model, {});
  EXPECT_EQ(distill_loss(model, copy, batch(1), {0, 1, 2, 3}, distance).item<double>(), 0);
  const auto apart = [&] { return distill_loss(model, shared, batch(1), {2}, distance).item<double>(); };
  const double before = apart();
  train::LmTrainOptions training;
  training.steps = 60;
  training.warmup = 5;
  training.learning_rate = 3e-3;
  training.weight_decay = 0;
  training.loss = [&](DecoderLm& student, const train::LmBatch& b, uint64_t seed) {
    return distill_loss(model, student, b, {2}, {}, seed);
  };
  train::train_lm(shared, [&](int64_t step) { return batch(100 + uint64_t(step)); }, training, {});
  EXPECT_LT(apart(), 0.9 * before);  // on a batch that it has not seen
  for (const auto& p : model->parameters()) EXPECT_FALSE(p.grad().defined());
}

}  // namespace
}  // namespace heed::surgery::echo_att_test
