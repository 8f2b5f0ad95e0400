// The card of words inside patches.
#include "heed/models/transformer_in_transformer.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::transformer_in_transformer_test {
namespace {

using test::relative_error;
using torch::Tensor;

TntConfig small() {
  TntConfig c;
  c.dim = 24, c.heads = c.kv_heads = 3, c.head_dim = 8, c.hidden = 30;
  c.image_height = 8, c.image_width = 12, c.patch_height = c.patch_width = 4;
  c.channels = 2;
  c.labels = 3;
  c.block = vision_block();
  c.layers.resize(2);
  c.word = 2, c.word_kernel = 3;
  c.inner = c;
  c.inner.dim = 8, c.inner.heads = c.inner.kv_heads = 2, c.inner.head_dim = 4, c.inner.hidden = 16;
  return c;
}

Tnt random_model(const TntConfig& config) {
  torch::manual_seed(1);
  Tnt model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  model->to(torch::kFloat64);
  return model;
}

TEST(TransformerInTransformer, WordsStayInTheirPatch) {
  auto model = random_model(small());
  auto pixels = torch::randn({1, 2, 8, 12}, torch::kFloat64).requires_grad_();
  const auto words = model->forward(pixels).words;
  ASSERT_EQ(words.sizes(), (std::vector<int64_t>{6, 4, 8}));
  for (int64_t p = 0; p < 6; ++p) {
    const auto gradient =
        torch::autograd::grad({words[p].square().sum()}, {pixels}, {}, true)[0].abs().flatten(0, 1).sum(0);
    auto expected = torch::zeros({8, 12}, torch::kBool);
    expected.narrow(0, p / 3 * 4, 4).narrow(1, p % 3 * 4, 4).fill_(true);
    EXPECT_TRUE(torch::equal(gradient > 0, expected)) << p;
  }
}

TEST(TransformerInTransformer, WithoutFoldsPatchesAreAViTs) {
  torch::NoGradGuard no_grad;
  auto model = random_model(small());
  const auto pixels = torch::randn({2, 2, 8, 12}, torch::kFloat64);
  const auto fed = model->forward(pixels).patches;
  const auto change_inner = [&] {
    for (auto& entry : model->named_parameters())
      if (entry.key().starts_with("inner.")) entry.value().add_(0.3);
  };
  for (auto& entry : model->named_parameters())
    if (entry.key().starts_with("fold_") &&
        (entry.key().ends_with("map.weight") || entry.key().find(".norm.bias") != std::string::npos))
      entry.value().zero_();
  const auto plain = model->forward(pixels).patches;
  EXPECT_GT(relative_error(plain, fed), 1e-2);
  change_inner();
  EXPECT_TRUE(torch::equal(model->forward(pixels).patches, plain));
}

/// All of it by the formula, with the blocks of other models: words of every patch with zeros around it, folds,
/// patches. With closed folds the patches are those of a vision transformer that is given the first tokens.
TEST(TransformerInTransformer, IsWhatTheFormulaSays) {
  torch::NoGradGuard no_grad;
  const auto config = small();
  auto model = random_model(config);
  const auto p = model->named_parameters();
  VisionTransformer vit(static_cast<const VisionConfig&>(config));
  torch::nn::Module owner;
  auto inner = make_blocks(owner, config.inner, false, torch::kFloat64);
  vit->to(torch::kFloat64);
  for (auto& entry : vit->named_parameters())
    if (const auto* found = p.find(entry.key())) entry.value().copy_(*found);
  for (auto& entry : owner.named_parameters()) entry.value().copy_(p["inner." + entry.key()]);
  const auto norm = [&](const std::string& name, const Tensor& x) {
    return torch::layer_norm(x, {x.size(-1)}, p[name + ".weight"], p[name + ".bias"]);
  };
  const auto fold = [&](const std::string& name, const Tensor& words) {
    const auto* bias = p.find(name + ".map.bias");
    return norm(name + ".norm", torch::linear(norm(name + ".word_norm", words).flatten(1), p[name + ".map.weight"],
                                              bias ? *bias : Tensor()));
  };
  const auto pixels = torch::randn({2, 2, 8, 12}, torch::kFloat64);
  for (const bool closed : {false, true}) {
    if (closed)
      for (auto& entry : model->named_parameters())
        if (entry.key().starts_with("fold_") &&
            (entry.key().ends_with("map.weight") || entry.key().find(".norm.bias") != std::string::npos))
          entry.value().zero_();
    std::vector<Tensor> words;  // of each patch
    for (int64_t patch = 0; patch < 6; ++patch) {
      const auto cut = pixels.narrow(2, 4 * (patch / 3), 4).narrow(3, 4 * (patch % 3), 4);
      words.push_back(
          torch::conv2d(cut, p["word_embedding.weight"], p["word_embedding.bias"], 2, 1).flatten(2).transpose(1, 2) +
          p["word_positions"]);
    }
    const auto folded = [&](const std::string& name) {
      std::vector<Tensor> rows;
      for (const auto& own : words) rows.push_back(fold(name, own));
      return torch::stack(rows, 1);
    };
    MixerInput patches;
    patches.x = torch::cat({p["class_token"].expand({2, 1, 24}), folded("first_fold")}, 1) + p["positions"];
    for (size_t l = 0; l < 2; ++l) {
      for (auto& own : words) own = inner[l]->forward({.x = own});
      const auto told = torch::cat({torch::zeros({2, 1, 24}), folded("fold_" + std::to_string(l))}, 1);
      if (!closed) patches.x = patches.x + told;
      patches.x = vit->blocks[l]->forward(patches);
    }
    const auto out = model->forward(pixels);
    EXPECT_LT(relative_error(out.patches, vit->finish(patches.x)), 1e-10) << "closed " << closed;
    EXPECT_LT(relative_error(out.words.view({2, 6, 4, 8}), torch::stack(words, 1)), 1e-10);
  }
}

TEST(TransformerInTransformer, PatchesWithTheirPositionsMayBePermuted) {
  torch::NoGradGuard no_grad;
  auto config = small();
  config.class_token = false;
  auto model = random_model(config);
  const auto pixels = torch::randn({1, 2, 8, 12}, torch::kFloat64);
  const auto before = model->forward(pixels).patches;
  const auto order = torch::tensor({3, 0, 5, 1, 4, 2});
  auto moved = torch::empty_like(pixels);
  const auto patch = [](const Tensor& image, int64_t p) {
    return image.narrow(2, p / 3 * 4, 4).narrow(3, p % 3 * 4, 4);
  };
  for (int64_t p = 0; p < 6; ++p) patch(moved, p).copy_(patch(pixels, order[p].item<int64_t>()));
  auto positions = model->named_parameters()["positions"];
  positions.copy_(positions.index_select(1, order).clone());
  EXPECT_LT(relative_error(model->forward(moved).patches, before.index_select(1, order)), 1e-10);
}

/// TNT-S of the paper: 23.8 million parameters.
TEST(TransformerInTransformer, HasThePublishedSize) {
  TntConfig c;
  c.dim = 384, c.heads = c.kv_heads = 6, c.head_dim = 64, c.hidden = 1536;
  c.labels = 1000;
  c.block = vision_block();
  c.attention.output_bias = true;
  c.layers.resize(12);
  c.inner = c;
  c.inner.dim = 24, c.inner.heads = c.inner.kv_heads = 4, c.inner.head_dim = 6, c.inner.hidden = 96;
  int64_t count = 0;
  for (const auto& parameter : Tnt(c)->parameters()) count += parameter.numel();
  EXPECT_NEAR(double(count) / 23.8e6, 1, 0.01);
}

TEST(TransformerInTransformer, WrongSizesAreNamed) {
  auto c = small();
  c.inner.layers.resize(1);
  EXPECT_THROW(Tnt{c}, Error);
  c = small();
  c.word_kernel = 2;
  EXPECT_THROW(Tnt{c}, Error);
}

}  // namespace
}  // namespace heed::transformer_in_transformer_test
