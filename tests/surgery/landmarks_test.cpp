// A decoder that gets landmarks: what stays the same, and what its batches become.
#include "heed/surgery/landmarks.h"

#include <gtest/gtest.h>

#include "cache/small_model.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "support/temporary_directory.h"

namespace heed::surgery::landmarks_test {
namespace {

using testing::largest_difference;
using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

TEST(Landmarks, BeforeTheFirstLandmarkTheModelIsItself) {
  torch::NoGradGuard no_grad;
  auto model = small_decoder();
  const int64_t vocab = model->config().vocab_size;
  const auto tokens = random_tokens(2, 30, 1);
  const auto before = model->forward(tokens);
  const auto same = [&](DecoderLm& changed) {
    const auto after = changed->forward(tokens).narrow(2, 0, vocab);
    EXPECT_LT(largest_difference(after, before), 1e-5 * before.abs().max().item<double>());
  };
  auto changed = add_landmarks(model, {{"block", 40}});
  EXPECT_EQ(changed->config().vocab_size, vocab);
  EXPECT_EQ(changed->landmark_block(), 40);
  same(changed);
  // The landmark's embedding is the mean of all.
  const auto mean = model->named_parameters()["embed_tokens.weight"].mean(0);
  EXPECT_LT(largest_difference(changed->named_parameters()["landmarks.embedding"], mean), 1e-6);
  auto given = add_landmarks(model, {{"block", 40}, {"landmarks", "given"}});
  EXPECT_EQ(given->config().vocab_size, vocab + 1);
  EXPECT_EQ(given->landmark_block(), 0);
  same(given);
  EXPECT_LT(largest_difference(given->named_parameters()["embed_tokens.weight"][vocab], mean), 1e-6);
  EXPECT_THROW(add_landmarks(changed, {{"block", 8}}), Error);
  EXPECT_THROW(add_landmarks(model, {{"block", 1}}), Error);
}

TEST(Landmarks, BatchesHaveThemWithTheWeightsAskedFor) {
  train::LmBatch batch{torch::arange(8).view({1, 8}), torch::arange(1, 8).to(torch::kFloat32).view({1, 7})};
  for (const bool targets : {false, true}) {
    const auto with = with_landmarks(batch, 4, 99, targets);
    const float l = targets ? 1 : 0;
    EXPECT_TRUE(torch::equal(with.tokens, torch::tensor({{0, 1, 2, 99, 3, 4, 5, 99, 6, 7}}, torch::kInt64)));
    EXPECT_TRUE(torch::equal(with.weights, torch::tensor({{1.f, 2.f, l, 3.f, 4.f, 5.f, l, 6.f, 7.f}})));
  }
}

TEST(Landmarks, AConvertedModelTrains) {
  auto model = small_decoder();
  const int64_t id = model->config().vocab_size;
  train::LmTrainOptions options;
  options.steps = 30;
  options.warmup = 5;
  options.learning_rate = 3e-3;
  for (const char* landmarks : {"inserted", "given"}) {
    auto changed = add_landmarks(model, {{"block", 8}, {"landmarks", landmarks}});
    const auto batches = [&](int64_t) {
      // The same text: what is learned is to remember it.
      const train::LmBatch text{random_tokens(4, 41, 7), torch::ones({4, 40})};
      return changed->landmark_block() ? text : with_landmarks(text, 8, id);
    };
    const double before = train::lm_loss(changed, batches(0)).item<double>();
    EXPECT_LT(train::train_lm(changed, batches, options, [](DecoderLm&) {}), 0.8 * before) << landmarks;
  }
}

TEST(Landmarks, AreWrittenAndReadWithTheModel) {
  torch::NoGradGuard no_grad;
  auto model = small_decoder();
  auto changed = add_landmarks(model, {{"block", 6}});
  changed->named_parameters()["landmarks.embedding"].normal_();
  const TemporaryDirectory folder;
  checkpoint::save_decoder(folder / "model", changed, torch::kFloat32);
  auto read = checkpoint::load_decoder(folder / "model");
  const auto tokens = random_tokens(2, 30, 2);
  changed->eval(), read->eval();
  EXPECT_TRUE(torch::equal(read->forward(tokens), changed->forward(tokens)));
}

}  // namespace
}  // namespace heed::surgery::landmarks_test
