// The U-Net of named mixers, and VSS blocks: what the ss2d card asks of a model.
#include "heed/models/vision_unet.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/models/vision_pyramid.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::vision_unet_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// Blocks of scans, one a stage.
VisionSpec scanning(int64_t height, int64_t width, bool dense) {
  auto spec = test::vision_spec(1, height, width);
  spec.dense = dense;
  spec.base.layers[0] = {"ss2d", {{"state_dim", 3}}};
  return spec;
}

TEST(UNet, StopsGoDownAndUpAgain) {
  torch::NoGradGuard no_grad;
  UNet net(Grid{{5, 7}}, 6, 3);
  std::vector<std::vector<int64_t>> seen;
  std::vector<bool> up;
  const auto out = net(torch::randn({2, 35, 6}), [&](size_t stop, const Tensor& cells) {
    EXPECT_EQ(stop, seen.size());
    EXPECT_EQ(cells.size(1), net->grid(stop).sizes[0] * net->grid(stop).sizes[1]);
    seen.push_back(cells.sizes().vec()), up.push_back(net->is_up(stop));
    return cells;
  });
  const std::vector<std::vector<int64_t>> expected{{2, 35, 6}, {2, 12, 12}, {2, 4, 18}, {2, 12, 12}, {2, 35, 6}};
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(up, (std::vector<bool>{false, false, false, true, true}));
  EXPECT_EQ(out.sizes(), expected[0]);
  EXPECT_EQ(net->stops(), 5u);
  EXPECT_THROW(UNet(Grid{{5, 7}}, 6, 0), Error);
}

// With nothing from below a scale reads its own cells of the way down, through the second half of the join.
TEST(UNet, SkipsHandOverTheCellsOfTheWayDown) {
  torch::manual_seed(1);
  torch::NoGradGuard no_grad;
  UNet net(Grid{{3, 4}}, 2, 2);
  auto p = net->named_parameters();
  p["up_0.weight"].zero_(), p["up_0.bias"].zero_();
  const auto x = torch::randn({1, 12, 2});
  const auto out = net(x, [](size_t stop, const Tensor& cells) { return stop == 0 ? 2 * cells : cells; });
  EXPECT_LT(relative_error(out, torch::matmul(2 * x, p["join_0.weight"].slice(1, 2).t()) + p["join_0.bias"]), 1e-6);
}

TEST(UNet, ACellUnfoldsIntoFour) {
  const auto cells = torch::arange(2 * 3 * 8, torch::kFloat32).view({1, 6, 8});
  const auto out = unfolded_cells(cells, Grid{{2, 3}}, Grid{{3, 5}});
  ASSERT_EQ(out.sizes(), (std::vector<int64_t>{1, 15, 2}));
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 5; ++c)
      for (int64_t channel = 0; channel < 2; ++channel)
        EXPECT_EQ(out[0][r * 5 + c][channel].item<float>(),
                  cells[0][r / 2 * 3 + c / 2][channel * 4 + r % 2 * 2 + c % 2].item<float>());
}

// x += SS2D(LN x); x += MLP(LN x)
TEST(VssBlock, IsATransformerBlockOfScans) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  const auto spec = scanning(6, 10, true);
  TransformerBlock block(spec.base, 0, false);
  for (auto& parameter : block->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  block->to(torch::kFloat64);
  MixerInput in;
  in.x = torch::randn({2, 15, 16}, torch::kFloat64);
  in.grid = Grid{{3, 5}};
  auto scan = make_mixer("ss2d", {{"dim", 16}, {"state_dim", 3}});
  scan->to(torch::kFloat64);
  auto p = block->named_parameters();
  for (auto& entry : scan->named_parameters()) entry.value().copy_(p["self_attn." + entry.key()]);
  const auto norm = [&](const std::string& name, const Tensor& x) {
    return torch::layer_norm(x, {16}, p[name + ".weight"], p[name + ".bias"], spec.base.norm_eps);
  };
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return torch::matmul(x, p[name + ".weight"].t()) + p[name + ".bias"];
  };
  auto inner = in;
  inner.x = norm("input_layernorm", in.x);
  const auto y = in.x + scan->forward(inner);
  const auto expected =
      y + linear("mlp.down_proj", torch::gelu(linear("mlp.up_proj", norm("post_attention_layernorm", y))));
  EXPECT_LT(relative_error(block->forward(in), expected), test::kDouble);
}

TEST(VssBlock, FourStagesOfThemSeeTheWholeImage) {
  torch::manual_seed(3);
  VisionPyramid model(PyramidConfig::growing(scanning(20, 12, false)));
  auto pixels = torch::randn({1, 1, 20, 12}).requires_grad_();
  const auto features = model->features(pixels);
  ASSERT_EQ(features.size(), 4u);
  const auto grad = torch::autograd::grad({model->states(pixels).square().sum()}, {pixels})[0];
  EXPECT_GT(grad.abs().min().item<double>(), 0);
}

// A mark in one corner decides the class of every patch: what is only local does not learn it.
TEST(VisionUnet, LearnsWhatADistantCornerSays) {
  torch::manual_seed(4);
  auto spec = scanning(8, 8, true);
  spec.labels = 2;
  VisionUnet model(spec, 2);
  const auto draw = [](int64_t count) {
    auto pixels = torch::randn({count, 1, 8, 8}) * 0.3;
    const auto mark = torch::randint(2, {count}, torch::kInt64);
    pixels.select(3, 0).select(2, 0).squeeze(1).copy_(mark.to(torch::kFloat32) * 6 - 3);
    return std::pair{pixels, mark.unsqueeze(1).expand({count, 16}).flatten()};
  };
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(3e-3));
  for (int64_t step = 0; step < 80; ++step) {
    const auto [pixels, labels] = draw(16);
    adam.zero_grad();
    torch::nn::functional::cross_entropy(model->answers(model->states(pixels)).flatten(0, 1), labels).backward();
    adam.step();
  }
  torch::NoGradGuard no_grad;
  const auto [pixels, labels] = draw(64);
  const auto answers = model->answers(model->states(pixels)).flatten(0, 1).argmax(1);
  EXPECT_GT(answers.eq(labels).to(torch::kFloat64).mean().item<double>(), 0.95);
}

}  // namespace
}  // namespace heed::vision_unet_test
