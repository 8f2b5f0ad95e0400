// TransNormerLLM whole: mixers of linear attention in blocks of SRMSNorm and SGLU.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/models/decoder_lm.h"
#include "support/torch_support.h"

namespace heed::transnormer_test {
namespace {

using torch::Tensor;

constexpr int64_t kDim = 24, kHeads = 3, kHidden = 40, kVocabulary = 19, kLayers = 3;

DecoderConfig transnormer(const char* mixer) {
  DecoderConfig config;
  config.dim = kDim;
  config.heads = config.kv_heads = kHeads;
  config.head_dim = kDim / kHeads;
  config.hidden = kHidden;
  config.vocab_size = kVocabulary;
  config.max_length = 64;
  config.block = formats::named_block("transnormer");
  config.layers.assign(kLayers, {mixer});
  return config;
}

TEST(Transnormer, HasTheParametersOfItsFormula) {
  const auto count = [](const char* mixer) {
    int64_t sum = 0;
    for (const auto& parameter : DecoderLm(transnormer(mixer))->parameters()) sum += parameter.numel();
    return sum;
  };
  const int64_t around = kVocabulary * kDim + kLayers * 3 * kDim * kHidden;  // embeddings, SGLU, and norms without any
  EXPECT_EQ(count("tnl"), around + kLayers * (4 * kDim * kDim + 2 * kDim * kDim / kHeads));
  EXPECT_EQ(count("transnormer_llm"), around + kLayers * (5 * kDim * kDim + kDim));
}

TEST(Transnormer, StepsGiveTheLogitsOfTheWhole) {
  torch::NoGradGuard no_grad;
  for (const char* mixer : {"tnl", "transnormer_llm"}) {
    torch::manual_seed(1);
    DecoderLm model(transnormer(mixer));
    const auto tokens = torch::randint(kVocabulary, {2, 50}, torch::kInt64);
    const auto whole = model->forward(tokens);
    auto state = model->make_state(2);
    std::vector<Tensor> parts{model->forward(tokens.slice(1, 0, 33), &state)};
    const int64_t bytes = state.bytes();
    for (int64_t t = 33; t < 50; ++t) parts.push_back(model->forward(tokens.slice(1, t, t + 1), &state));
    EXPECT_LT(test::relative_error(torch::cat(parts, 1), whole), 1e-4) << mixer;
    EXPECT_EQ(state.bytes(), bytes) << mixer << ": the state grows";
  }
}

// x += Mixer(x / rms(x)); x += W_3 (W_1 n (x) W_2 n), n = x / rms(x), written out around the model's own mixers.
TEST(Transnormer, BlocksAreSrmsNormAndSglu) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  DecoderLm model(transnormer("tnl"), torch::kFloat64);
  const auto tokens = torch::randint(kVocabulary, {1, 20}, torch::kInt64);
  const auto p = model->named_parameters();
  const auto srms = [&](const Tensor& x) {
    return x * torch::rsqrt(x.square().mean(2, true) + model->config().norm_eps);
  };
  auto x = p["embed_tokens.weight"].index_select(0, tokens[0]).unsqueeze(0);
  for (int64_t l = 0; l < kLayers; ++l) {
    MixerInput in;
    in.x = srms(x);
    in.layer = {l, kLayers};
    x = x + model->blocks[size_t(l)]->mixer->forward(in);
    const auto weight = [&](const char* name) {
      return p["layers_" + std::to_string(l) + ".mlp." + name + "_proj.weight"].t();
    };
    const auto n = srms(x);
    x = x + (n.matmul(weight("gate")) * n.matmul(weight("up"))).matmul(weight("down"));
  }
  const auto logits = srms(x).matmul(p["embed_tokens.weight"].t());
  EXPECT_LT(test::relative_error(model->forward(tokens), logits), 1e-12);
}

TEST(Transnormer, NormsHaveRootMeanSquareOneWhateverTheScale) {
  torch::manual_seed(3);
  nn::Norm norm(formats::NormKind::srms, 32, 0);
  EXPECT_TRUE(norm->parameters().empty());
  const auto x = torch::randn({5, 32}, torch::kFloat64);
  const auto normed = norm(x);
  EXPECT_LT((normed.square().mean(1) - 1).abs().max().item<double>(), 1e-14);
  EXPECT_LT(test::relative_error(norm(x * 1000), normed), 1e-14);
}

TEST(NamedBlock, UnknownNamesAreRefusedWithTheNearest) {
  try {
    formats::named_block("transnormr");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean transnormer"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace heed::transnormer_test
