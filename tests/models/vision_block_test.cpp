// What blocks of image models have beside two mixers: convolutions, one norm for both, one residual for both; and the
// channel mixers of images.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/models/channel_mixer.h"
#include "heed/models/local_conv.h"
#include "heed/models/reduced_blocks.h"
#include "heed/models/reversible.h"
#include "support/gradient_check.h"
#include "support/image_support.h"
#include "support/vision_support.h"

namespace heed::vision_block_test {
namespace {

using nlohmann::json;
using test::kDouble;
using test::linear_of;
using test::parameter;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kHeight = 5, kWidth = 4, kDim = 16;

void move_all(torch::nn::Module& module) {
  module.to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  for (auto& p : module.parameters()) p.add_(torch::randn_like(p) * 0.3);
}

MixerInput cells(int64_t batch = 2) { return test::image_input(kHeight, kWidth, kDim, batch); }

/// Zeros around the image, a kernel a channel.
Tensor depthwise(torch::nn::Module& module, const std::string& name, const Tensor& x, bool bias = true) {
  const auto image = x.transpose(1, 2).reshape({x.size(0), x.size(2), kHeight, kWidth});
  const auto y = torch::conv2d(image, parameter(module, name + ".weight"),
                               bias ? parameter(module, name + ".bias") : Tensor(), 1, 1, 1, x.size(2));
  return y.flatten(2).transpose(1, 2);
}

TEST(LocalConv, DepthwiseOnesAddACellsNeighbours) {
  test::seed_images(1);
  const auto conv = make_local_conv("depthwise", kDim);
  move_all(*conv);
  auto in = cells();
  EXPECT_LT(relative_error(conv->forward(in.x, in), in.x + depthwise(*conv, "conv", in.x)), kDouble);
  EXPECT_THROW(make_local_conv("depthwis", kDim), Error);
  in.key_padding = torch::zeros({2, kHeight * kWidth}, torch::kBool);
  EXPECT_THROW(conv->forward(in.x, in), Error);
  in.key_padding.reset();
  in.grid.reset();
  EXPECT_THROW(conv->forward(in.x, in), Error);
}

/// MaxViT's: norm, wider, norm, near, norm, gated, narrow again.
TEST(LocalConv, MbConvIsWhatTheFormulaSays) {
  test::seed_images(2);
  const auto conv = make_local_conv("mbconv", kDim);
  move_all(*conv);
  const auto in = cells();
  for (const bool trains : {true, false}) {
    conv->train(trains);
    const auto buffers = conv->named_buffers();
    const auto norm = [&](const std::string& name, const Tensor& x) {
      const auto mean = trains ? x.flatten(0, 1).mean(0) : buffers[name + ".running_mean"].clone(),
                 variance = trains ? x.flatten(0, 1).var(0, false) : buffers[name + ".running_var"].clone();
      return (x - mean) / (variance + 1e-5).sqrt() * parameter(*conv, name + ".weight") +
             parameter(*conv, name + ".bias");
    };
    const auto wide = torch::gelu(norm("expanded_norm", linear_of(*conv, "expand", norm("norm", in.x))));
    ASSERT_EQ(wide.size(2), 4 * kDim);
    const auto near = torch::gelu(norm("conv_norm", depthwise(*conv, "conv", wide, false)));
    const auto squeezed = torch::silu(linear_of(*conv, "squeeze", near.mean(1, true)));
    ASSERT_EQ(squeezed.size(2), kDim / 4);
    const auto expected =
        in.x + linear_of(*conv, "project", near * torch::sigmoid(linear_of(*conv, "excite", squeezed)));
    EXPECT_LT(relative_error(conv->forward(in.x, in), expected), 1e-9) << trains;
  }
}

TEST(LocalConv, GradientsOfAllParts) {
  test::seed_images(3);
  for (const char* name : {"depthwise", "mbconv"}) {
    const auto conv = make_local_conv(name, 4);
    move_all(*conv);
    auto in = test::image_input(3, 4, 4, 2);
    in.x.requires_grad_();
    std::vector<Tensor> inputs{in.x};
    for (auto& p : conv->parameters()) inputs.push_back(p);
    SCOPED_TRACE(name);
    test::expect_gradient([&] { return conv->forward(in.x, in); }, inputs);
  }
}

TransformerConfig config_of(const LayerPlan& plan) {
  auto config = test::vision_spec(1).base;
  config.layers = {plan};
  return config;
}

TransformerBlock block_of(const TransformerConfig& config) {
  TransformerBlock block(config, 0, false);
  move_all(*block);
  block->eval();
  return block;
}

/// The parts of a block, called by hand.
struct Parts {
  explicit Parts(TransformerBlock& block, const MixerInput& in) : block(block), in(in) {}
  Tensor tokens(const Tensor& x) const {
    auto inner = in;
    inner.x = x;
    return block->mixer->forward(inner);
  }
  Tensor channels(const Tensor& x) const { return block->mlp->forward(x, in.grid); }
  TransformerBlock& block;
  const MixerInput& in;
};

TEST(VisionBlock, ConvolutionsStandBeforeTheMixers) {
  test::seed_images(4);
  torch::NoGradGuard no_grad;
  LayerPlan plan;
  plan.before_tokens = plan.before_channels = "depthwise";
  auto block = block_of(config_of(plan));
  const auto in = cells();
  const Parts parts(block, in);
  auto x = in.x + depthwise(*block, "before_tokens.conv", in.x);
  x = x + parts.tokens(block->input_norm(x));
  x = x + depthwise(*block, "before_channels.conv", x);
  x = x + parts.channels(block->mlp_norm(x));
  EXPECT_LT(relative_error(block->forward(in), x), kDouble);
}

/// x += C(n2(T(n1(x))))
TEST(VisionBlock, OneResidualGoesAroundBothMixers) {
  test::seed_images(5);
  torch::NoGradGuard no_grad;
  LayerPlan plan{"spectral_gating", {{"height", kHeight}, {"width", kWidth}}};
  plan.one_residual = true;
  auto block = block_of(config_of(plan));
  const auto in = cells();
  const Parts parts(block, in);
  EXPECT_LT(
      relative_error(block->forward(in), in.x + parts.channels(block->mlp_norm(parts.tokens(block->input_norm(in.x))))),
      kDouble);
  EXPECT_THROW(block->token_half(in), Error);
}

/// x += T(n(x)); x += C(n(x)), n one norm, whose gradient is of both places.
TEST(VisionBlock, OneNormServesBothMixers) {
  test::seed_images(6);
  auto config = config_of({"ninformer_gating", {{"max_length", kHeight * kWidth}}});
  config.shared_norm = true;
  auto block = block_of(config);
  EXPECT_FALSE(block->named_parameters().contains("post_attention_layernorm.weight"));
  const auto in = cells();
  const Parts parts(block, in);
  const auto norm = [&](const Tensor& x, const Tensor& weight) {
    return torch::layer_norm(x, {kDim}, weight, parameter(*block, "input_layernorm.bias"), config.norm_eps);
  };
  const auto shared = parameter(*block, "input_layernorm.weight");
  const auto first = shared.detach().clone().requires_grad_(), second = shared.detach().clone().requires_grad_();
  auto x = in.x + parts.tokens(norm(in.x, first));
  x = x + parts.channels(norm(x, second));
  const auto out = block->forward(in);
  EXPECT_LT(relative_error(out, x), kDouble);
  const auto apart = torch::autograd::grad({x.square().sum()}, {first, second});
  const auto own = torch::autograd::grad({out.square().sum()}, {shared})[0];
  EXPECT_LT(relative_error(own, apart[0] + apart[1]), 1e-9);
}

TEST(VisionBlock, WhatDoesNotFitIsNamed) {
  LayerPlan plan;
  plan.before_tokens = "depthwise";
  auto config = config_of(plan);
  config.block.placement = formats::NormPlacement::post;
  EXPECT_THROW(TransformerBlock(config, 0, false), Error);
  config.block.placement = formats::NormPlacement::pre;
  config.block.channel_mixer = "none";
  EXPECT_THROW(TransformerBlock(config, 0, false), Error);
  plan.one_residual = true, plan.before_channels = "depthwise";
  EXPECT_THROW(TransformerBlock(config_of(plan), 0, false), Error);
  plan = {};
  plan.one_residual = true;
  std::vector<TransformerBlock> blocks{block_of(config_of(plan))};
  EXPECT_THROW(run_reversible_blocks(blocks, cells(), 0), Error);
  // Between the mixers of one residual there is nothing that could be reduced.
  auto spec = test::vision_spec(2);
  spec.settings = {{"one_residual", {0}}, {"reducer", {{"name", "token_merging"}, {"share", 0.25}, {"layers", {0}}}}};
  const auto model = make_backbone("vit", spec);
  EXPECT_THROW(model->states(torch::randn({1, 1, 8, 8})), Error);
}

/// What settings say of the blocks of any backbone.
TEST(VisionBlock, SettingsNameTheLayers) {
  const auto names = [](const char* backbone, const json& settings) {
    auto spec = test::vision_spec(2);
    spec.settings = settings;
    std::string all;
    for (const auto& entry : make_backbone(backbone, spec)->named_parameters()) all += entry.key() + "\n";
    return all;
  };
  const auto has = [](const std::string& all, const char* part) { return all.find(part) != std::string::npos; };
  const auto second = names("pyramid", {{"local_conv", {{"name", "mbconv"}, {"layers", {1}}}}});
  EXPECT_TRUE(has(second, "stage_3.layers_1.before_tokens.expand"));
  EXPECT_FALSE(has(second, "layers_0.before_tokens") || has(second, "before_channels"));
  const auto both = names("vit", {{"local_conv", {{"name", "depthwise"}, {"channels", true}}}});
  EXPECT_TRUE(has(both, "layers_0.before_tokens.conv") && has(both, "layers_1.before_channels.conv"));
  EXPECT_FALSE(has(names("unet", {{"shared_norm", true}}), "post_attention_layernorm"));
  EXPECT_FALSE(has(names("vit", {{"positions", false}}), "positions"));
  for (const json& wrong :
       {json{{"local_conv", {{"name", "mbconw"}}}}, json{{"local_conv", {{"name", "mbconv"}, {"layers", {2}}}}},
        json{{"local_conv", {{"layers", {0}}}}}, json{{"local_conv", {{"name", "mbconv"}, {"layer", 0}}}},
        json{{"one_residual", {2}}}, json{{"one_residual", true}}, json{{"shared_norms", true}}})
    EXPECT_THROW(names("vit", wrong), Error) << wrong;
  EXPECT_THROW(names("pyramid", {{"positions", false}}), Error);
}

/// MaxViT's stages learn: convolutions, blocks, grids.
TEST(VisionBlock, BackbonesOfAllPartsGiveFiniteStates) {
  torch::manual_seed(7);
  for (const char* backbone : {"vit", "pyramid", "unet", "medusa_attention"}) {
    auto spec = test::vision_spec(2, 12, 20);
    spec.base.layers[0] = {"multi_axis_attention", {{"axes", "block"}, {"size", 3}}};
    spec.base.layers[1] = {"multi_axis_attention", {{"axes", "grid"}, {"size", 3}}};
    spec.settings = {{"local_conv", {{"name", "mbconv"}, {"layers", {0}}}}};
    const auto model = make_backbone(backbone, spec);
    const auto states = model->states(torch::randn({2, 1, 12, 20}));
    EXPECT_TRUE(test::all_finite(states)) << backbone;
    states.square().sum().backward();
    for (const auto& entry : model->named_parameters())
      if (entry.key().find("before_tokens") != std::string::npos) {
        EXPECT_TRUE(entry.value().grad().defined()) << backbone << " " << entry.key();
      }
  }
}

/// Activator sees a bag of patches, unless positions are added to them; other mixers know their places themselves.
TEST(VisionBlock, ShuffledPatchesAreTheSameToActivator) {
  torch::manual_seed(8);
  torch::NoGradGuard no_grad;
  const auto pixels = torch::randn({2, 1, 8, 8});
  const auto order = torch::randperm(16);
  const auto patches = pixels.unflatten(3, {4, 2}).unflatten(2, {4, 2}).permute({0, 1, 2, 4, 3, 5}).flatten(2, 3);
  const auto shuffled =
      patches.index_select(2, order).unflatten(2, {4, 4}).permute({0, 1, 2, 4, 3, 5}).reshape({2, 1, 8, 8});
  const auto moved = [&](const char* mixer, bool positions) {
    torch::manual_seed(9);
    auto spec = test::vision_spec(2);
    for (auto& layer : spec.base.layers) layer.mixer = mixer;
    spec.settings = {{"positions", positions}, {"shared_norm", true}};
    const auto model = make_backbone("vit", spec);
    for (auto& p : model->parameters()) p.add_(torch::randn_like(p) * 0.2);
    const auto answers = [&](const Tensor& x) { return model->answers(model->states(x)); };
    return relative_error(answers(shuffled), answers(pixels));
  };
  EXPECT_LT(moved("activator_glu", false), test::kForwardTolerance);
  EXPECT_GT(moved("activator_glu", true), 1e-3);
  EXPECT_GT(moved("ninformer_gating", false), 1e-3);
  EXPECT_LT(moved("dense", false), test::kForwardTolerance);
}

/// A vision transformer without positions is one for all sizes: its weights in an image twice as wide are those of a
/// model that was made for it.
TEST(VisionBlock, WithoutPositionsImagesMayHaveOtherSizes) {
  test::seed_images(11);
  torch::NoGradGuard no_grad;
  const auto made = [&](int64_t width, bool positions, bool reduces) {
    auto spec = test::vision_spec(2, 8, width);
    for (auto& layer : spec.base.layers) layer = {"dense", {{"causal", false}}};
    spec.settings = {{"positions", positions}};
    if (reduces) spec.settings["reducer"] = {{"name", "token_merging"}, {"share", 0.25}};
    return make_backbone("vit", spec);
  };
  const auto wide = torch::randn({2, 1, 8, 16});
  for (const bool reduces : {false, true}) {
    const auto narrow = made(8, false, reduces), other = made(16, false, reduces);
    const auto theirs = narrow->named_parameters();
    for (auto& p : other->named_parameters()) p.value().copy_(theirs[p.key()]);
    EXPECT_TRUE(torch::equal(narrow->states(wide), other->states(wide))) << reduces;
    EXPECT_THROW(narrow->states(torch::randn({1, 1, 8, 9})), Error);
  }
  EXPECT_THROW(made(8, true, false)->states(wide), Error);
}

std::shared_ptr<ChannelMixer> channel_mixer(const char* name, int64_t hidden) {
  auto mixer = make_channel_mixer(vision_block(name), kDim, hidden);
  move_all(*mixer);
  return mixer;
}

TEST(ConvGrn, IsWhatTheFormulaSays) {
  test::seed_images(10);
  const auto mixer = channel_mixer("conv_grn", 12);
  const auto in = cells();
  auto h = torch::gelu(linear_of(*mixer, "up_proj", in.x));
  h = h + depthwise(*mixer, "conv", h);
  auto expected = torch::zeros_like(h);
  for (int64_t b = 0; b < 2; ++b) {
    const auto response = h[b].square().sum(0).sqrt();  // of a channel over all cells
    expected[b] =
        parameter(*mixer, "gain") * h[b] * response / (response.mean() + 1e-6) + parameter(*mixer, "shift") + h[b];
  }
  EXPECT_LT(relative_error(mixer->forward(in.x, in.grid), linear_of(*mixer, "down_proj", expected)), kDouble);
  EXPECT_THROW(mixer->forward(in.x, {}), Error);
  EXPECT_THROW(mixer->stages(in.x), Error);
  auto x = in.x.clone().requires_grad_();
  std::vector<Tensor> inputs{x};
  for (auto& p : mixer->parameters()) inputs.push_back(p);
  test::expect_gradient([&] { return mixer->forward(x, in.grid); }, inputs);
}

/// A block of linear maps becomes one of shared convolutions by shaping its weights anew.
TEST(ConvShareMlp, ABlockOfWholeKernelsIsTheBlockOfLinearMaps) {
  test::seed_images(11);
  torch::NoGradGuard no_grad;
  auto config = config_of({"dense", {{"qkv_bias", true}, {"output_bias", true}, {"causal", false}}});
  for (const int64_t hidden : {25, 20}) {  // a map of the inner channels, all of it or with zeros behind them
    config.hidden = hidden;
    auto dense = block_of(config);
    auto other = config;
    other.block.channel_mixer = "conv_share_mlp";
    other.layers = {{"conv_share_attention", json::object()}};
    auto shared = block_of(other);
    const std::map<std::string, std::string> renamed{{"self_attn.q_proj", "self_attn.q"},
                                                     {"self_attn.k_proj", "self_attn.k"},
                                                     {"self_attn.v_proj", "self_attn.v"},
                                                     {"self_attn.o_proj", "self_attn.o"}};
    for (const auto& entry : dense->named_parameters()) {
      auto name = entry.key();
      for (const auto& [from, to] : renamed)
        if (name.starts_with(from)) name = to + name.substr(from.size());
      auto target = parameter(*shared, name);
      target.copy_(entry.value().view(target.sizes()));
    }
    const auto in = cells();
    EXPECT_LT(relative_error(shared->forward(in), dense->forward(in)), kDouble);
    const auto stages = shared->mlp->stages(in.x), wanted = dense->mlp->stages(in.x);
    ASSERT_EQ(stages.size(), wanted.size());
    for (size_t i = 0; i < stages.size(); ++i) EXPECT_LT(relative_error(stages[i].second, wanted[i].second), kDouble);
  }
  // Channels that are no square lie in the smallest map that holds them.
  auto uneven = make_channel_mixer(vision_block("conv_share_mlp"), 18, 25);
  const auto x = torch::randn({2, 5, 18});
  const auto linear = [&](const char* name, const Tensor& t) {
    return torch::linear(t, parameter(*uneven, std::string(name) + ".weight").flatten(1),
                         parameter(*uneven, std::string(name) + ".bias"));
  };
  EXPECT_LT(relative_error(uneven->forward(x, {}), linear("down_proj", torch::gelu(linear("up_proj", x)))),
            test::kForwardTolerance);
}

}  // namespace
}  // namespace heed::vision_block_test
