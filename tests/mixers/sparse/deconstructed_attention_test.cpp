// The card of deconstructed_attention: each variant against its formula, and the streams beside the text.
#include "heed/mixers/attention_share.h"
#include "heed/mixers/companion.h"
#include "heed/mixers/taps.h"
#include "heed/models/decoder_lm.h"
#include "heed/nn/positions.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::deconstructed_attention_test {
namespace {

using test::relative_error;
using torch::Tensor;

const std::vector<std::string> kAlone{"standard",  "mlp",        "approx",       "approx_diag",
                                      "nonapprox", "rnd_emb_qk", "static_emb_qk"};

nlohmann::json layer(const std::string& variant, nlohmann::json more = nlohmann::json::object()) {
  nlohmann::json config{{"dim", 24}, {"heads", 4}, {"positions", "rope"}, {"max_length", 64}, {"variant", variant}};
  config.update(more);
  return config;
}

std::shared_ptr<TokenMixer> drawn(const std::string& variant, torch::ScalarType type = torch::kFloat32) {
  return test::drawn_mixer("deconstructed_attention", layer(variant, {{"sigma", 1.0}}), type);
}

Tensor heads_of(const TokenMixer& mixer, const Tensor& x, const char* name, bool rotated) {
  const auto y =
      torch::matmul(x, mixer.named_parameters()[name].t()).view({x.size(0), x.size(1), 4, 6}).transpose(1, 2);
  return rotated ? nn::apply_rope(y, torch::arange(x.size(1)), {}) : y;
}

Tensor mixed(const TokenMixer& mixer, const Tensor& weights, const Tensor& x) {
  const auto heads = torch::matmul(weights, heads_of(mixer, x, "v_proj.weight", false));
  return torch::matmul(heads.transpose(1, 2).flatten(2), mixer.named_parameters()["o_proj.weight"].t());
}

TEST(DeconstructedAttention, WeightsAreThoseOfTheFormulas) {
  test::seed_torch(1);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 21, 24}, torch::kFloat64);
  const auto future = torch::arange(21) > torch::arange(21).unsqueeze(1);
  for (const char* variant : {"approx", "approx_diag", "nonapprox"}) {
    auto mixer = drawn(variant, torch::kFloat64);
    for (auto& entry : mixer->named_parameters())
      if (entry.key() == "q_proj.weight") entry.value().mul_(0.05);  // approx_diag is positive for small products alone
    const bool rotated = std::string(variant) != "nonapprox";
    const auto q = heads_of(*mixer, x, "q_proj.weight", rotated), k = heads_of(*mixer, x, "k_proj.weight", rotated);
    const double root = std::sqrt(6.0);
    Tensor weights;
    if (std::string(variant) == "nonapprox") {
      const auto s = ((q * torch::sigmoid(q)) * k).sum(3) / root;
      weights = torch::exp(s).unsqueeze(2).expand({2, 4, 21, 21});
    } else {
      const auto s = torch::matmul(q, k.transpose(2, 3)) / root;
      const auto second =
          std::string(variant) == "approx" ? s.square() : torch::matmul(q * q, (k * k).transpose(2, 3)) / 6;
      weights = 1 + s + second / 2;
    }
    weights = weights.masked_fill(future, 0);
    EXPECT_GT(weights.masked_fill(future, 1).min().item<double>(), 0) << variant;
    weights = weights / weights.sum(3, true);
    EXPECT_LT(relative_error(mixer->forward({.x = x}), mixed(*mixer, weights, x)), 1e-10) << variant;
  }
}

TEST(DeconstructedAttention, AllAreCausalStepsAreTheWholeAndSizesAreEqual) {
  test::seed_torch(2);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 30, 24});
  auto changed = x.clone();
  changed.slice(1, 12).add_(2);
  for (const auto& variant : kAlone) {
    auto mixer = drawn(variant);
    const auto whole = mixer->forward({.x = x});
    EXPECT_TRUE(torch::equal(mixer->forward({.x = changed}).slice(1, 0, 12), whole.slice(1, 0, 12))) << variant;
    EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1}), whole), test::kForwardTolerance) << variant;
    EXPECT_LT(relative_error(test::in_parts(*mixer, x, {11, 2}), whole), test::kForwardTolerance) << variant;
    int64_t size = 0;
    for (const auto& parameter : mixer->parameters()) size += parameter.numel();
    EXPECT_EQ(size, 4 * 24 * 24) << variant;  // 3 * 32 of the perceptron, too
  }
}

TEST(DeconstructedAttention, NoiseAttendsAlikeForEveryText) {
  test::seed_torch(3);
  torch::NoGradGuard no_grad;
  auto mixer = drawn("rnd_emb_qk", torch::kFloat64);
  const auto a = torch::randn({1, 15, 24}, torch::kFloat64), b = torch::randn({1, 15, 24}, torch::kFloat64);
  // Weights do not follow the text: the layer is linear in it.
  const auto sum = mixer->forward({.x = a}) + mixer->forward({.x = b});
  EXPECT_LT(relative_error(mixer->forward({.x = a + b}), sum), 1e-12);
  auto standard = drawn("standard", torch::kFloat64);
  EXPECT_GT(relative_error(standard->forward({.x = a + b}), standard->forward({.x = a}) + standard->forward({.x = b})),
            1e-2);
  EXPECT_THROW(mixer->forward({.x = torch::randn({1, 65, 24}, torch::kFloat64)}), Error);
}

DecoderLm decoder(const std::string& variant, int64_t layers) {
  DecoderConfig config;
  config.dim = 16, config.heads = 2, config.kv_heads = 2, config.head_dim = 8, config.hidden = 24;
  config.vocab_size = 30, config.max_length = 64;
  config.positions.kind = "rope";
  nlohmann::json own{{"variant", variant}};
  if (variant == "fixed_seq_qk") own["tokens"] = {3, 1, 4, 1, 5};
  if (variant == "rnd_emb_qk") own["sigma"] = 1.0;
  for (int64_t l = 0; l < layers; ++l) config.layers.push_back({"deconstructed_attention", own});
  DecoderLm model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.1);
  model->eval();
  return model;
}

TEST(DeconstructedAttention, CompanionsGoThroughTheSameLayers) {
  test::seed_torch(4);
  for (const char* variant : {"fixed_seq_qk", "rnd_emb_qk"}) {
    auto model = decoder(variant, 3);
    const auto tokens = torch::randint(30, {2, 12}, torch::kInt64);
    // By hand: the companion's residual stream is that of a standard model fed with it.
    auto standard = decoder("standard", 3);
    {
      torch::NoGradGuard no_grad;
      auto target = standard->named_parameters();
      for (auto& entry : model->named_parameters()) target[entry.key()].copy_(entry.value());
    }
    struct Streams : Taps {
      std::vector<Tensor> inputs;
      void block_input(const LayerContext&, Tensor& x) override { inputs.push_back(x); }
    } streams;
    const auto& source = dynamic_cast<const CompanionSource&>(*model->blocks[0]->mixer);
    const auto companion = source.companion(12, [&](const Tensor& ids) { return standard->embed(ids); });
    ASSERT_EQ(companion.sizes(), (std::vector<int64_t>{1, 12, 16}));
    standard->hidden_of(companion, nullptr, 0, &streams);
    auto x = model->embed(tokens);
    for (size_t l = 0; l < 3; ++l) {
      AttentionShare share;  // q and k of this layer, by hand
      const auto normed = model->blocks[l]->input_norm(streams.inputs[l]);
      const auto p = model->blocks[l]->mixer->named_parameters();
      const auto heads = [&](const char* name) {
        return torch::matmul(normed, p[name].t()).view({1, 12, 2, 8}).transpose(1, 2);
      };
      share.companion_q = heads("q_proj.weight"), share.companion_k = heads("k_proj.weight");
      MixerInput in{.x = x};
      in.share = &share;
      x = model->blocks[l]->forward(in);
    }
    const auto expected = model->named_children()["norm"]->as<nn::NormImpl>()->forward(x);
    EXPECT_LT(relative_error(model->hidden(tokens), expected), test::kForwardTolerance) << variant;
    auto state = model->make_state(2);
    std::vector<Tensor> parts;
    {
      torch::NoGradGuard no_grad;
      for (int64_t at = 0; at < 12; at += 3) parts.push_back(model->forward(tokens.slice(1, at, at + 3), &state));
      EXPECT_LT(relative_error(torch::cat(parts, 1), model->forward(tokens)), test::kForwardTolerance) << variant;
    }
    // The queries of the last layer are made of the companion's stream, so the loss reaches their weights.
    auto early = model->named_parameters()["layers_2.self_attn.q_proj.weight"];
    const auto grads = torch::autograd::grad({model->forward(tokens).square().sum()}, {early});
    EXPECT_GT(grads[0].abs().max().item<double>(), 0);
  }
}

TEST(DeconstructedAttention, StaticQueriesAndKeysFollowTheTokensAlone) {
  test::seed_torch(5);
  torch::NoGradGuard no_grad;
  auto model = decoder("static_emb_qk", 2);
  const auto tokens = torch::randint(30, {2, 10}, torch::kInt64);
  struct Queries : Taps {
    std::vector<Tensor> q;
    void core_input(const LayerContext&, CoreInput& core) override { q.push_back(core.q.clone()); }
  } before, after;
  model->forward(tokens, nullptr, 0, &before);
  for (auto& entry : model->named_parameters())
    if (entry.key().find("layers_0") == 0) entry.value().mul_(1.7);
  model->forward(tokens, nullptr, 0, &after);
  EXPECT_TRUE(torch::equal(before.q[1], after.q[1]));
  EXPECT_FALSE(torch::equal(before.q[0], after.q[0]));
  auto state = model->make_state(2);
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < 10; at += 4)
    parts.push_back(model->forward(tokens.slice(1, at, std::min<int64_t>(at + 4, 10)), &state));
  EXPECT_LT(relative_error(torch::cat(parts, 1), model->forward(tokens)), test::kForwardTolerance);
}

TEST(DeconstructedAttention, TheFirstLayerOfStaticQueriesIsStandard) {
  test::seed_torch(6);
  torch::NoGradGuard no_grad;
  // With the embeddings as its input, norm and all, there is nothing between them and the queries.
  auto fixed = drawn("static_emb_qk", torch::kFloat64), standard = drawn("standard", torch::kFloat64);
  test::copy_weights(*standard, *fixed);
  const auto x = torch::randn({2, 17, 24}, torch::kFloat64);
  AttentionShare share;
  share.embedded = x;
  MixerInput in{.x = x};
  in.share = &share;
  EXPECT_LT(relative_error(fixed->forward(in), standard->forward({.x = x})), 1e-12);
  // Behind it values alone follow the text: the layer is linear in x.
  const auto a = torch::randn_like(x), b = torch::randn_like(x);
  const auto at = [&](const Tensor& text) {
    MixerInput later{.x = text};
    later.share = &share;
    return fixed->forward(later);
  };
  EXPECT_LT(relative_error(at(a) + at(b), at(a + b)), 1e-12);
  EXPECT_GT(relative_error(at(a), standard->forward({.x = a})), 1e-3);
}

TEST(DeconstructedAttention, SumsAreOfTheSizeOfTheCard) {
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  constexpr int64_t kHead = 6;
  for (const auto& [variant, numbers] :
       {std::pair<const char*, int64_t>{"approx_diag", (1 + 2 * kHead) * (kHead + 1)},
        {"approx", (1 + kHead + kHead * (kHead + 1) / 2) * (kHead + 1)},
        {"nonapprox", kHead + 2}}) {  // numerator, denominator and the largest score so far
    auto mixer = drawn(variant);
    auto state = mixer->make_state(2);
    mixer->forward({.x = torch::randn({2, 33, 24})}, state.get());
    EXPECT_EQ(state->bytes(), 2 * 4 * numbers * 4) << variant;
  }
}

TEST(DeconstructedAttention, BadInputIsNamed) {
  const char* name = "deconstructed_attention";
  EXPECT_THROW(make_mixer(name, {{"variant", "quantum"}}), Error);
  EXPECT_THROW(make_mixer(name, {{"variant", "fixed_seq_qk"}}), Error);
  EXPECT_THROW(make_mixer(name, {{"causal", false}}), Error);
  auto fixed = make_mixer(name, {{"variant", "fixed_seq_qk"}, {"tokens", {1, 2}}});
  EXPECT_THROW(fixed->forward({.x = torch::randn({1, 4, 64})}), Error);
}

}  // namespace
}  // namespace heed::deconstructed_attention_test
