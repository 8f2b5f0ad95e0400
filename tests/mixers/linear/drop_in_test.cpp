// Mixers that take the place of softmax attention in a trained model: performer, sea, kernelized_rpe and combiner keep
// its projections, shared heads, biases and positions.
#include <gtest/gtest.h>

#include "heed/assets.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/nn/positions.h"
#include "heed/surgery/tiled_positions.h"
#include "mixers/linear/linear_support.h"
#include "support/test_files.h"

namespace heed::drop_in_test {
namespace {

using nlohmann::json;
using test::kDouble;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kDim = 24, kHeads = 4, kSize = 6, kLength = 40;

const std::vector<std::pair<std::string, json>>& drop_ins() {
  static const std::vector<std::pair<std::string, json>> all{
      {"performer", {{"features", 20}}},
      {"sea", {{"columns", 16}, {"keys", 3}, {"max_length", kLength}}},
      {"kernelized_rpe", {{"features", 10}, {"max_length", kLength}}},
      {"combiner", {{"span", 5}}}};
  return all;
}

json positions_of(const std::string& kind) {
  return kind == "learned" ? json{{"kind", kind}, {"max_length", kLength}} : json(kind);
}

/// With two heads of keys and values for four of queries, biases, and positions of a kind.
json shared_heads(json own, const std::string& kind = "rope") {
  own.update({{"dim", kDim}, {"heads", kHeads}, {"kv_heads", 2}, {"qkv_bias", true}, {"output_bias", true}});
  own["positions"] = positions_of(kind);
  return own;
}

std::shared_ptr<TokenMixer> drawn(const std::string& name, const json& config) {
  auto mixer = test::wide_mixer(name, config);
  torch::NoGradGuard no_grad;
  for (auto& entry : mixer->named_parameters())
    if (entry.key().find("_proj") != std::string::npos && entry.key().find('.') == entry.key().rfind('.'))
      entry.value().normal_(0, 0.3);
  return mixer;
}

/// The core of `name` between projections, positions and heads written out; k and v from `memory` where defined.
Tensor by_hand(const std::string& name, const json& own, TokenMixer& mixer, const std::string& kind, const Tensor& x,
               const Tensor& memory, bool causal) {
  auto core_config = own;
  core_config.update({{"dim", kDim}, {"heads", kHeads}, {"causal", causal}});
  auto core = test::wide_mixer(name, core_config);
  test::copy_weights(*core, mixer);
  const auto p = mixer.named_parameters();
  const auto placed = [&](const Tensor& t) {
    const auto at = torch::arange(t.size(1));
    if (kind == "sinusoidal") return t + nn::sinusoidal(at, kDim);
    return kind == "learned" ? t + p["positions.table"].narrow(0, 0, t.size(1)) : t;
  };
  const auto heads = [&](const std::string& projection, const Tensor& t) {
    const auto y = torch::matmul(placed(t), p[projection + ".weight"].t()) + p[projection + ".bias"];
    return y.unflatten(2, {-1, kSize}).transpose(1, 2);
  };
  const auto turned = [&](const Tensor& t) {
    return kind == "rope" ? nn::apply_rope(t, torch::arange(t.size(2)), {}) : t;
  };
  const auto of_each = torch::tensor({0, 0, 1, 1});
  const auto& source = memory.defined() ? memory : x;
  const auto out = core->mix({turned(heads("q_proj", x)), turned(heads("k_proj", source)).index_select(1, of_each),
                              heads("v_proj", source).index_select(1, of_each)});
  return torch::matmul(out.transpose(1, 2).flatten(2), p["o_proj.weight"].t()) + p["o_proj.bias"];
}

TEST(DropIn, EveryParameterOfSoftmaxAttentionHasItsPlace) {
  for (const auto& [name, own] : drop_ins())
    for (const char* kind : {"rope", "learned"}) {
      const auto dense = make_mixer("dense", shared_heads({}, kind));
      const auto places = make_mixer(name, shared_heads(own, kind))->named_parameters();
      for (const auto& entry : dense->named_parameters()) {
        const auto* found = places.find(entry.key());
        ASSERT_NE(found, nullptr) << name << " " << entry.key();
        EXPECT_EQ(found->sizes(), entry.value().sizes()) << name << " " << entry.key();
      }
    }
}

TEST(DropIn, TheCoreSeesTheHeadsOfSoftmaxAttention) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (const auto& [name, own] : drop_ins())
    for (const char* kind : {"none", "rope", "learned", "sinusoidal"})
      for (const bool causal : {true, false}) {
        auto config = shared_heads(own, kind);
        config["causal"] = causal;
        auto mixer = drawn(name, config);
        const auto in = test::random_tokens(2, 17, kDim);
        EXPECT_LT(relative_error(mixer->forward(in), by_hand(name, own, *mixer, kind, in.x, {}, causal)), kDouble)
            << name << " " << kind << " " << causal;
      }
}

TEST(DropIn, MemoryHasPositionsOfItsOwn) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  const auto& [name, own] = drop_ins().front();
  auto config = shared_heads(own);
  config["causal"] = false;
  auto mixer = drawn(name, config);
  auto in = test::random_tokens(2, 9, kDim);
  in.memory = torch::randn({2, 14, kDim}, torch::kFloat64);
  EXPECT_LT(relative_error(mixer->forward(in), by_hand(name, own, *mixer, "rope", in.x, *in.memory, false)), kDouble);
}

TEST(DropIn, PackedSequencesBeginAtPositionZero) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  auto mixer = drawn("performer", shared_heads({{"features", 20}}, "learned"));
  auto in = test::random_tokens(1, 19, kDim);
  in.cu_seqlens = torch::tensor({0, 7, 19}, torch::kInt64);
  const auto out = mixer->forward(in);
  for (const auto& [begin, end] : {std::pair{0, 7}, {7, 19}})
    EXPECT_LT(relative_error(out.slice(1, begin, end), mixer->forward({.x = in.x.slice(1, begin, end)})), kDouble);
}

TEST(DropIn, StepsContinueThePositions) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  for (const auto& [name, own] : drop_ins())
    for (const char* kind : {"rope", "learned"}) {
      auto mixer = drawn(name, shared_heads(own, kind));
      const auto in = test::random_tokens(2, 23, kDim);
      EXPECT_LT(relative_error(test::in_parts(*mixer, in.x, {1, 7, 2}), mixer->forward(in)), kDouble) << name << kind;
    }
}

TEST(DropIn, SeaKeepsSharedKeysAndValuesOnce) {
  torch::NoGradGuard no_grad;
  const auto bytes = [](int64_t kv_heads) {
    auto config = shared_heads(drop_ins()[1].second);
    config["kv_heads"] = kv_heads;
    auto mixer = test::wide_mixer("sea", config);
    auto state = mixer->make_state(2);
    mixer->forward({.x = torch::randn({2, 23, kDim}, torch::kFloat64)}, state.get());
    return state->bytes();
  };
  EXPECT_EQ(bytes(4) - bytes(1), 3 * 2 * (2 * 23 * kSize * int64_t(sizeof(double))));
}

TEST(DropIn, TermsOfScoresAreRefused) {
  for (const auto& [name, own] : drop_ins()) {
    for (const std::string kind : {"alibi", "t5"})
      EXPECT_NE(error_of([&] { make_mixer(name, shared_heads(own, kind)); }).find("positions = " + kind),
                std::string::npos)
          << name;
    auto config = shared_heads(own);
    config["kv_heads"] = 3;
    EXPECT_NE(error_of([&] { make_mixer(name, config); }).find("kv_heads = 3"), std::string::npos) << name;
  }
}

/// The model with another mixer in all layers, and what could not be taken over.
std::pair<DecoderLm, std::string> converted(DecoderLm& model, const std::string& mixer, const json& own) {
  auto config = model->config();
  for (auto& layer : config.layers) layer = {mixer, own};
  DecoderLm changed(config);
  auto untaken = surgery::take_weights(changed, model);
  changed->eval();
  return {changed, untaken};
}

DecoderLm shipped() {
  auto model = checkpoint::load_decoder(find_asset("tiny-lm"));
  model->eval();
  return model;
}

/// With biases, as Qwen2 (q, k, v) and GPT-2 have them.
DecoderLm biased(bool output_bias) {
  DecoderConfig config;
  config.vocab_size = 50, config.dim = 32, config.heads = 4, config.kv_heads = 2, config.head_dim = 8;
  config.hidden = 48, config.max_length = 64;
  config.attention.qkv_bias = true, config.attention.output_bias = output_bias;
  config.positions.kind = "rope";
  config.layers.resize(2);
  DecoderLm model(config);
  torch::NoGradGuard no_grad;
  for (auto& p : model->named_parameters())
    if (p.key().find("norm") == std::string::npos) p.value().normal_(0, 0.3);
  model->eval();
  return model;
}

TEST(DropIn, AConvertedModelHasEveryWeightItCameFrom) {
  torch::manual_seed(5);
  const auto expect_all = [](DecoderLm model) {
    for (const auto& [name, own] : drop_ins()) {
      auto settings = own;
      settings.erase("max_length");
      auto [changed, untaken] = converted(model, name, settings);
      EXPECT_EQ(untaken.find("q_proj"), std::string::npos) << untaken;
      EXPECT_EQ(untaken.find("not taken over"), std::string::npos) << untaken;
      EXPECT_EQ(untaken.find("positions"), std::string::npos) << untaken;
      EXPECT_EQ(untaken.empty(), name == "performer" || name == "combiner") << untaken;
      const auto now = changed->named_parameters();
      for (const auto& entry : model->named_parameters())
        EXPECT_TRUE(torch::equal(now[entry.key()], entry.value())) << name << " " << entry.key();
    }
  };
  expect_all(shipped());
  expect_all(biased(false));
  expect_all(biased(true));
}

TEST(DropIn, SeaWithEveryKeyIsTheModelItCameFrom) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const auto expect_same = [](DecoderLm model, int64_t vocabulary) {
    auto [sea, untaken] = converted(model, "sea", {{"keys", 1000}, {"columns", 48}});
    for (auto& entry : sea->named_parameters())
      if (entry.key().ends_with("estimator.gates.bias")) entry.value().fill_(100);
    const auto tokens = torch::randint(vocabulary, {2, 40}, torch::kInt64);
    const auto expected = model->forward(tokens);
    EXPECT_LT(relative_error(sea->forward(tokens), expected), test::kForwardTolerance);
    auto state = sea->make_state(2);
    const auto first = sea->forward(tokens.narrow(1, 0, 33), &state), last = sea->forward(tokens.slice(1, 33), &state);
    EXPECT_LT(relative_error(torch::cat({first, last}, 1), expected), test::kForwardTolerance);
  };
  expect_same(shipped(), 256);
  expect_same(biased(false), 50);
  expect_same(biased(true), 50);
}

}  // namespace
}  // namespace heed::drop_in_test
