// The card of transformer_xl: shifts of relative scores, and a memory that gets no gradient.
#include "heed/models/decoder_lm.h"
#include "heed/nn/positions.h"
#include "heed/nn/relative_scores.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::transformer_xl_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr int64_t kDim = 24, kHeads = 4, kSize = 6;

nlohmann::json layer(int64_t memory) { return {{"dim", kDim}, {"heads", kHeads}, {"memory", memory}}; }

/// The definition in double: every R_{i-j} gathered.
Tensor formula(const TokenMixer& mixer, const Tensor& x, int64_t new_tokens) {
  const auto p = mixer.named_parameters();
  const auto heads = [&](const Tensor& t, const char* name) {
    return torch::matmul(t, p[name].t()).view({t.size(0), t.size(1), kHeads, kSize}).transpose(1, 2);
  };
  const int64_t m = x.size(1), n = new_tokens;
  const auto q = heads(x.slice(1, m - n), "q_proj.weight"), k = heads(x, "k_proj.weight"),
             v = heads(x, "v_proj.weight");
  const auto distance = (torch::arange(n) + m - n).unsqueeze(1) - torch::arange(m);
  const auto r = torch::matmul(nn::sinusoidal(distance.flatten(), kDim).to(torch::kFloat64), p["r_proj.weight"].t())
                     .view({n, m, kHeads, kSize})
                     .permute({2, 0, 1, 3});  // [H, n, m, D]
  auto s = torch::matmul(q + p["content_bias"], k.transpose(2, 3)) + ((q + p["distance_bias"]).unsqueeze(3) * r).sum(4);
  s = (s / std::sqrt(double(kSize))).masked_fill(distance < 0, -INFINITY);
  return torch::matmul(torch::matmul(torch::softmax(s, 3), v).transpose(1, 2).flatten(2), p["o_proj.weight"].t());
}

TEST(RelativeShift, IsTheGather) {
  test::seed_torch(1);
  for (const auto& [r, m] : {std::pair<int64_t, int64_t>{1, 5}, {4, 4}, {3, 9}, {7, 1}}) {
    const auto x = torch::randn({2, 3, r, m + r - 1});
    const auto out = nn::relative_shift(x);
    ASSERT_EQ(out.sizes(), (std::vector<int64_t>{2, 3, r, m}));
    for (int64_t t = 0; t < r; ++t)
      EXPECT_TRUE(torch::equal(out.select(2, t), x.select(2, t).slice(2, r - 1 - t, r - 1 - t + m)));
  }
  EXPECT_THROW(nn::relative_shift(torch::randn({4, 3})), Error);
}

TEST(TransformerXl, IsTheFormula) {
  test::seed_torch(2);
  auto mixer = test::drawn_mixer("transformer_xl", layer(512), torch::kFloat64);
  for (const int64_t n : {1, 13, 64, 150}) {  // tiles of 64 rows
    const auto x = torch::randn({2, n, kDim}, torch::kFloat64);
    EXPECT_LT(relative_error(mixer->forward({.x = x}), formula(*mixer, x, n)), 1e-12) << n;
  }
}

TEST(TransformerXl, WithoutRelativeTermsIsPlainAttention) {
  test::seed_torch(3);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("transformer_xl", layer(512));
  for (const char* name : {"r_proj.weight", "content_bias", "distance_bias"}) mixer->named_parameters()[name].zero_();
  auto dense = make_mixer("dense", {{"dim", kDim}, {"heads", kHeads}});
  dense->eval();
  test::copy_weights(*dense, *mixer);
  const auto x = torch::randn({2, 70, kDim});
  EXPECT_LT(relative_error(mixer->forward({.x = x}), dense->forward({.x = x})), test::kForwardTolerance);
}

TEST(TransformerXl, TwoSegmentsWithMemoryAreOnePass) {
  test::seed_torch(4);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("transformer_xl", layer(32));
  const auto x = torch::randn({2, 64, kDim});
  const auto whole = mixer->forward({.x = x});
  EXPECT_LT(relative_error(test::in_parts(*mixer, x, {32}), whole), test::kForwardTolerance);
  // A memory of 16 is the formula over 16 tokens and the segment, whatever was before.
  auto shorter = make_mixer("transformer_xl", layer(16));
  shorter->eval();
  test::copy_weights(*shorter, *mixer);
  auto wide = make_mixer("transformer_xl", layer(16));
  wide->eval();
  test::copy_weights(*wide, *mixer);
  wide->to(torch::kFloat64);
  const auto expected = formula(*wide, x.slice(1, 16).to(torch::kFloat64), 32);
  EXPECT_LT(relative_error(test::in_parts(*shorter, x, {32}).slice(1, 32), expected), test::kForwardTolerance);
  auto state = shorter->make_state(2);
  shorter->forward({.x = x}, state.get());
  EXPECT_THROW(state->truncate(60), Error);
}

TEST(TransformerXl, NoGradientReachesTheMemory) {
  test::seed_torch(5);
  auto mixer = test::drawn_mixer("transformer_xl", layer(64), torch::kFloat64);
  auto first = torch::randn({1, 9, kDim}, torch::kFloat64).requires_grad_(),
       second = torch::randn({1, 7, kDim}, torch::kFloat64).requires_grad_();
  auto state = mixer->make_state(1);
  mixer->forward({.x = first}, state.get());
  const auto out = mixer->forward({.x = second}, state.get());
  const auto grads = torch::autograd::grad({out.square().sum()}, {first, second}, {}, c10::nullopt, false, true);
  EXPECT_FALSE(grads[0].defined() && grads[0].abs().max().item<double>() > 0);
  EXPECT_GT(grads[1].abs().min().item<double>(), 0);
}

TEST(TransformerXl, PlacesDoNotMatterButDistances) {
  test::seed_torch(6);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("transformer_xl", layer(64));
  const auto x = torch::randn({1, 12, kDim});
  MixerInput later{.x = x};
  later.positions = torch::arange(1000, 1012);
  EXPECT_TRUE(torch::equal(mixer->forward(later), mixer->forward({.x = x})));
  // Behind tokens that are all padding, too.
  MixerInput padded{.x = torch::cat({torch::randn({1, 5, kDim}), x}, 1)};
  padded.key_padding = (torch::arange(17) < 5).unsqueeze(0);
  EXPECT_LT(relative_error(mixer->forward(padded).slice(1, 5), mixer->forward({.x = x})), test::kForwardTolerance);
}

DecoderLm decoder(const char* biases, int64_t layers, torch::ScalarType type) {
  DecoderConfig c;
  c.dim = kDim, c.heads = c.kv_heads = kHeads, c.head_dim = kSize, c.hidden = 32, c.vocab_size = 20, c.max_length = 64;
  for (int64_t l = 0; l < layers; ++l) c.layers.push_back({"transformer_xl", {{"memory", 16}, {"biases", biases}}});
  DecoderLm model(c, type);
  model->eval();
  return model;
}

TEST(TransformerXl, LayersOfAModelHaveOneUAndOneV) {
  test::seed_torch(7);
  auto shared = decoder("model", 3, torch::kFloat64), apart = decoder("layer", 3, torch::kFloat64);
  const auto count = [](DecoderLm& model) {
    int64_t biases = 0;
    for (const auto& entry : model->named_parameters()) biases += entry.key().ends_with("_bias") ? 1 : 0;
    return biases;
  };
  EXPECT_EQ(count(shared), 2);
  EXPECT_EQ(count(apart), 6);
  const auto target = apart->named_parameters();
  {
    torch::NoGradGuard no_grad;
    for (const auto& entry : shared->named_parameters()) entry.value().add_(torch::randn_like(entry.value()) * 0.2);
    for (const auto& entry : shared->named_parameters()) {
      target[entry.key()].copy_(entry.value());
      if (!entry.key().ends_with("_bias")) continue;
      const auto name = entry.key().substr(std::string("layers_0").size());
      for (const char* layer : {"layers_1", "layers_2"}) target[layer + name].copy_(entry.value());
    }
  }
  const auto tokens = torch::randint(20, {2, 11}, torch::kInt64);
  EXPECT_LT(relative_error(shared->forward(tokens), apart->forward(tokens)), 1e-12);
  // What the layers' own ones get separately comes together.
  const auto weights = torch::randn({2, 11, 20}, torch::kFloat64);
  (shared->forward(tokens) * weights).sum().backward();
  (apart->forward(tokens) * weights).sum().backward();
  for (const char* name : {"content_bias", "distance_bias"}) {
    auto sum = torch::zeros({kHeads, 1, kSize}, torch::kFloat64);
    for (const char* layer : {"layers_0", "layers_1", "layers_2"})
      sum = sum + target[std::string(layer) + ".self_attn." + name].grad();
    EXPECT_LT(relative_error(shared->named_parameters()[std::string("layers_0.self_attn.") + name].grad(), sum), 1e-10);
  }
  // Another type and other weights reach all layers.
  shared->to(torch::kFloat32);
  auto narrow = decoder("model", 3, torch::kFloat32);
  std::stringstream file;
  torch::serialize::OutputArchive out;
  shared->save(out);
  out.save_to(file);
  torch::serialize::InputArchive archive;
  archive.load_from(file);
  narrow->load(archive);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(narrow->forward(tokens), shared->forward(tokens)));
  EXPECT_LT(relative_error(narrow->forward(tokens), apart->forward(tokens)), test::kForwardTolerance);
  DecoderConfig c = shared->config();
  c.layers[1].config["head_dim"] = 2 * kSize;
  EXPECT_THROW(DecoderLm{c}, Error);
}

TEST(TransformerXl, BadInputIsNamed) {
  EXPECT_THROW(make_mixer("transformer_xl", {{"positions", "rope"}}), Error);
  EXPECT_THROW(make_mixer("transformer_xl", {{"softcap", 2.0}}), Error);
  EXPECT_THROW(make_mixer("transformer_xl", {{"memory", -1}}), Error);
  EXPECT_THROW(make_mixer("transformer_xl", {{"biases", "all"}}), Error);
}

}  // namespace
}  // namespace heed::transformer_xl_test
