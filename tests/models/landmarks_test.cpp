// Models that put landmarks among their tokens: what the layers see, and that a caller sees none.
#include "heed/models/landmarks.h"

#include <gtest/gtest.h>

#include "heed/cache/session.h"
#include "heed/error.h"
#include "heed/models/sequence.h"
#include "heed/nn/landmark_tokens.h"
#include "support/torch_support.h"

namespace heed::landmarks_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr int64_t kVocabulary = 20, kBlock = 5;

DecoderConfig config_of(std::vector<LayerPlan> layers) {
  DecoderConfig config;
  config.vocab_size = kVocabulary;
  config.dim = 24, config.heads = 4, config.kv_heads = 2, config.head_dim = 6, config.hidden = 32;
  config.positions.kind = "rope";
  config.layers = std::move(layers);
  return config;
}

LayerPlan plan(nlohmann::json config = nlohmann::json::object()) {
  if (!config.contains("block")) config["block"] = kBlock;
  return {"landmark_attention", std::move(config)};
}

DecoderLm drawn(const DecoderConfig& config) {
  torch::manual_seed(3);
  DecoderLm model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  model->eval();
  return model;
}

TEST(ModelLandmarks, AreWhatATextWithLandmarksGives) {
  torch::NoGradGuard no_grad;
  auto model = drawn(config_of({plan(), {"dense"}, plan()}));
  EXPECT_EQ(model->landmark_block(), kBlock);
  auto config = config_of({plan({{"landmarks", "given"}}), {"dense"}, plan({{"landmarks", "given"}})});
  config.vocab_size = kVocabulary + 1;
  DecoderLm given(config);
  EXPECT_EQ(given->landmark_block(), 0);
  const auto from = model->named_parameters();
  for (auto& entry : given->named_parameters())
    if (entry.key() == "embed_tokens.weight")
      entry.value().copy_(torch::cat({from[entry.key()], from["landmarks.embedding"].unsqueeze(0)}));
    else
      entry.value().copy_(from[entry.key()]);
  given->eval();
  for (const int64_t n : {3, 4, 5, 8, 23}) {
    const auto tokens = torch::randint(kVocabulary, {2, n}, torch::kInt64);
    const auto with = nn::insert_landmarks(tokens, kBlock, kVocabulary);
    const auto real = nn::landmark_places(with.size(1), kBlock).logical_not().nonzero().squeeze(1);
    const auto expected = given->hidden(with).index_select(1, real);
    const auto found = model->hidden(tokens);
    ASSERT_EQ(found.sizes(), expected.sizes());
    EXPECT_LT(relative_error(found, expected), test::kForwardTolerance) << n;
  }
}

TEST(ModelLandmarks, StepsAndChunksAreTheWhole) {
  torch::NoGradGuard no_grad;
  auto model = drawn(config_of({plan(), {"dense"}}));
  const auto tokens = torch::randint(kVocabulary, {2, 23}, torch::kInt64);
  const auto whole = model->forward(tokens);
  for (const int64_t chunk : {1, 3, 4, 9}) {
    auto state = model->make_state(2);
    std::vector<Tensor> parts;
    for (int64_t i = 0; i < 23; i += chunk) {
      EXPECT_EQ(state.seen(), i);
      parts.push_back(model->forward(tokens.slice(1, i, std::min<int64_t>(23, i + chunk)), &state));
    }
    EXPECT_EQ(state.seen(), 23);
    EXPECT_EQ(state.seen_by_layers(), 23 + 23 / (kBlock - 1));
    EXPECT_LT(relative_error(torch::cat(parts, 1), whole), test::kForwardTolerance) << chunk;
  }
  // As generation runs it.
  const auto full = [](const LayerContext&) { return std::make_unique<cache::LayerCache>(); };
  cache::Session session(model, full, 2, 6);
  const auto prompt = session.prefill(tokens.narrow(1, 0, 14));
  EXPECT_LT(relative_error(prompt, whole.select(1, 13)), test::kForwardTolerance);
  EXPECT_LT(relative_error(session.steps(tokens.narrow(1, 14, 9)), whole.narrow(1, 14, 9)), test::kForwardTolerance);
  EXPECT_EQ(session.seen(), 23);
}

TEST(ModelLandmarks, EveryTokenIsReadAndTheLandmarkLearns) {
  torch::manual_seed(5);
  auto model = drawn(config_of({plan()}));
  const auto embedded = torch::randn({1, 17, 24}, torch::requires_grad());
  model->hidden_of(embedded).select(1, 16).sum().backward();
  // A landmark is not read; none of the tokens is taken for one.
  EXPECT_GT(embedded.grad().abs().sum(2).min().item<double>(), 0);
  EXPECT_GT(model->named_parameters()["landmarks.embedding"].grad().abs().max().item<double>(), 0);
}

TEST(ModelLandmarks, StartAsTheMeanOfAllEmbeddings) {
  auto config = config_of({plan()});
  config.embedding_scale = 3;
  DecoderLm model(config);
  const auto p = model->named_parameters();
  EXPECT_LT(relative_error(p["landmarks.embedding"], 3 * p["embed_tokens.weight"].mean(0)), 1e-6);
}

TEST(ModelLandmarks, OfPaddingArePadding) {
  torch::manual_seed(6);
  torch::NoGradGuard no_grad;
  Landmarks landmarks(3, 2);
  MixerInput input;
  input.x = torch::arange(1, 6).to(torch::kFloat32).view({1, 5, 1}).expand({1, 5, 2});
  input.key_padding = torch::tensor({{true, true, false, false, false}});
  const auto with = landmarks->inserted(input, 0);
  ASSERT_EQ(with.x.size(1), 7);
  EXPECT_TRUE(torch::equal(*with.key_padding, torch::tensor({{true, true, true, false, false, false, false}})));
  EXPECT_TRUE(torch::equal(with.x[0][2], landmarks->embedding));
  EXPECT_TRUE(torch::equal(landmarks->dropped(with.x, 0), input.x));
  input.grid = Grid{{1, 5}};
  EXPECT_THROW(landmarks->inserted(input, 0), Error);
}

TEST(ModelLandmarks, SequencesOfVectorsHaveThemToo) {
  torch::manual_seed(7);
  torch::NoGradGuard no_grad;
  SequenceConfig config;
  static_cast<TransformerConfig&>(config) = config_of({plan(), plan()});
  config.channels = 3, config.outputs = 2;
  SequenceModel model(config);
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  model->eval();
  const auto x = torch::randn({2, 14, 3});
  const auto whole = model->forward(x);
  EXPECT_EQ(whole.size(1), 14);
  auto state = model->make_state(2);
  const auto first = model->forward(x.narrow(1, 0, 9), {}, &state),
             last = model->forward(x.narrow(1, 9, 5), {}, &state);
  EXPECT_LT(relative_error(torch::cat({first, last}, 1), whole), test::kForwardTolerance);
  config.bare = true;
  EXPECT_THROW(SequenceModel{config}, Error);
}

TEST(ModelLandmarks, LayersAgreeOnOneBlock) {
  EXPECT_THROW(DecoderLm(config_of({plan(), plan({{"block", 7}})})), Error);
  EXPECT_THROW(DecoderLm(config_of({plan({{"landmarks", "none"}})})), Error);
  EXPECT_EQ(DecoderLm(config_of({{"dense"}}))->landmark_block(), 0);
}

}  // namespace
}  // namespace heed::landmarks_test
