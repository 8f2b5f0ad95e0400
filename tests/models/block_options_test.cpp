// Blocks with norms over the batch and with layer scales, against the formula written out.
#include <gtest/gtest.h>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/models/reversible.h"
#include "heed/models/vision_backbone.h"
#include "support/temporary_directory.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::block_options_test {
namespace {

using formats::NormKind;
using test::relative_error;
using torch::Tensor;

constexpr double kEps = 1e-5, kMomentum = 0.1;

TransformerConfig config_of(NormKind norm, double layer_scale) {
  auto config = test::vision_spec(1).base;
  config.block.norm = norm;
  config.block.layer_scale = layer_scale;
  config.norm_eps = kEps;
  return config;
}

TransformerBlock drawn_block(const TransformerConfig& config) {
  torch::NoGradGuard no_grad;
  TransformerBlock block(config, 0, false);
  block->to(torch::kFloat64);
  for (auto& parameter : block->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return block;
}

/// Every channel by the mean and the biased variance of its column, and what the running statistics become of the
/// unbiased one.
struct Column {
  Tensor mean, variance, running_mean, running_var;
  Column(const Tensor& x, const Tensor& before_mean, const Tensor& before_var) {
    const auto rows = x.flatten(0, 1);
    const auto count = double(rows.size(0));
    mean = rows.sum(0) / count;
    const auto squares = (rows - mean).square().sum(0);
    variance = squares / count;
    running_mean = (1 - kMomentum) * before_mean + kMomentum * mean;
    running_var = (1 - kMomentum) * before_var + kMomentum * squares / (count - 1);
  }
};

TEST(BlockOptions, BatchNormAndLayerScaleFollowTheFormula) {
  torch::manual_seed(1);
  RecordProperty("seed", 1);
  auto block = drawn_block(config_of(NormKind::batch, 0.01));
  const auto x = torch::randn({3, 7, 16}, torch::kFloat64) * 2 + 1;
  const auto p = block->named_parameters();
  const auto zeros = torch::zeros({16}, torch::kFloat64), ones = torch::ones({16}, torch::kFloat64);
  Tensor running_mean, running_var;  // of the first norm
  for (const bool training : {true, false}) {
    block->train(training);
    const auto normed = [&](const Tensor& t, const std::string& name, const Tensor& mean, const Tensor& variance) {
      return (t - mean) / (variance + kEps).sqrt() * p[name + ".weight"] + p[name + ".bias"];
    };
    const Column first(x, zeros, ones);
    const auto tokens =
        block->mixer->forward({.x = training ? normed(x, "input_layernorm", first.mean, first.variance)
                                             : normed(x, "input_layernorm", block->input_norm->running_mean,
                                                      block->input_norm->running_var)});
    const auto between = x + p["mixer_scale"] * tokens;
    const Column second(between, zeros, ones);
    const auto inner = training ? normed(between, "post_attention_layernorm", second.mean, second.variance)
                                : normed(between, "post_attention_layernorm", block->mlp_norm->running_mean,
                                         block->mlp_norm->running_var);
    const auto active = torch::gelu(torch::linear(inner, p["mlp.up_proj.weight"], p["mlp.up_proj.bias"]));
    const auto channels = torch::linear(active, p["mlp.down_proj.weight"], p["mlp.down_proj.bias"]);
    EXPECT_LT(relative_error(block->forward({.x = x}), between + p["mlp_scale"] * channels), test::kDouble) << training;
    if (!training) continue;
    EXPECT_LT(relative_error(block->input_norm->running_mean, first.running_mean), test::kDouble);
    EXPECT_LT(relative_error(block->input_norm->running_var, first.running_var), test::kDouble);
    EXPECT_LT(relative_error(block->mlp_norm->running_var, second.running_var), test::kDouble);
  }
}

TEST(BlockOptions, ScalesBeginAsTheyAreSet) {
  const TransformerBlock block(config_of(NormKind::layer, 0.25), 0, false);
  EXPECT_TRUE(torch::equal(block->mixer_scale, torch::full({16}, 0.25)));
  EXPECT_TRUE(torch::equal(block->mlp_scale, torch::full({16}, 0.25)));
  EXPECT_FALSE(TransformerBlock(config_of(NormKind::layer, 0), 0, false)->mixer_scale.defined());
}

/// A norm over the batch leaves an image to itself in evaluation alone.
TEST(BlockOptions, BackbonesTakeBoth) {
  torch::manual_seed(2);
  RecordProperty("seed", 2);
  for (const auto& name : backbone_names()) {
    if (traits_of(name).colours) continue;
    auto spec = test::vision_spec(1, 12, 20);
    spec.settings = {{"norm", "batch"}, {"layer_scale", 0.01}};
    const auto model = make_backbone(name, spec);
    const auto pixels = torch::randn({3, 1, 12, 20});
    model->answers(model->states(pixels)).square().sum().backward();
    int64_t scales = 0, statistics = 0;
    for (const auto& entry : model->named_parameters())
      if (entry.key().ends_with("mixer_scale")) scales += entry.value().grad().abs().sum().item<double>() > 0;
    for (const auto& entry : model->named_buffers())
      if (entry.key().ends_with("norm.running_mean")) statistics += entry.value().abs().sum().item<double>() > 0;
    EXPECT_GT(scales, 0) << name;
    EXPECT_GT(statistics, 0) << name;
    torch::NoGradGuard no_grad;
    const auto alone = [&] { return model->states(pixels.narrow(0, 0, 2)).narrow(0, 0, 1); };
    const auto together = [&] { return model->states(pixels).narrow(0, 0, 1); };
    EXPECT_GT(relative_error(alone(), together()), 1e-3) << name;
    model->eval();
    EXPECT_LT(relative_error(alone(), together()), test::kForwardTolerance) << name;
  }
}

TEST(BlockOptions, WhatDoesNotGoTogetherIsRefused) {
  const auto refused = [](const TransformerConfig& config, bool causal = false) {
    EXPECT_THROW(TransformerBlock(config, 0, causal), Error);
  };
  refused(config_of(NormKind::batch, 0), true);
  refused(config_of(NormKind::layer, -0.1));
  refused(config_of(NormKind::layer, std::nan("")));
  for (const auto placement : {formats::NormPlacement::post, formats::NormPlacement::sandwich,
                               formats::NormPlacement::parallel, formats::NormPlacement::reversible}) {
    auto config = config_of(NormKind::layer, 0.1);
    config.block.placement = placement;
    refused(config);
  }
  for (const auto& config : {config_of(NormKind::batch, 0), config_of(NormKind::layer, 0.1)}) {
    const std::vector<TransformerBlock> blocks{TransformerBlock(config, 0, false)};
    EXPECT_THROW(run_reversible_blocks(blocks, {.x = torch::randn({1, 4, 16})}), Error);
  }
  EXPECT_THROW(TransformerBlock(config_of(NormKind::batch, 0), 0, false)->forward({.x = torch::randn({1, 1, 16})}),
               Error);
  auto spec = test::vision_spec(1);
  spec.settings = {{"norm", "batch"}, {"reducer", {{"name", "token_merging"}}}};
  EXPECT_THROW(make_backbone("vit", spec), Error);
  spec.settings = {{"norm", "bach"}};
  EXPECT_THROW(make_backbone("vit", spec), Error);
}

/// A decoder with layer scales is none of Llama's, and comes back from its files.
TEST(BlockOptions, ADecoderKeepsItsScales) {
  torch::manual_seed(3);
  DecoderConfig c;
  c.dim = 16, c.heads = c.kv_heads = 2, c.head_dim = 8, c.hidden = 20;
  c.positions.kind = "rope";
  c.block.layer_scale = 0.5;
  c.layers.resize(2);
  DecoderLm model(c);
  const TemporaryDirectory folder;
  checkpoint::save_decoder(folder.path(), model, torch::kFloat32);
  auto again = checkpoint::load_decoder(folder.path());
  torch::NoGradGuard no_grad;
  const auto tokens = torch::randint(0, 256, {1, 9}, torch::kInt64);
  EXPECT_EQ(again->config().block.layer_scale, 0.5);
  EXPECT_TRUE(torch::equal(again->forward(tokens), model->forward(tokens)));
}

}  // namespace
}  // namespace heed::block_options_test
