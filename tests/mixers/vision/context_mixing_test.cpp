// The card of convolutions whose kernels come from affinities to a context.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "heed/error.h"
#include "support/image_support.h"

namespace heed::context_mixing_test {
namespace {

using test::image_input;
using test::image_mixer;
using test::parameter;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kDim = 16;
constexpr double kGate = 0.7;

void zero(TokenMixer& mixer, std::initializer_list<const char*> names) {
  for (const char* name : names) parameter(mixer, name).data().zero_();
}

/// Leaves of the mixer what its dynamic kernels give, times known numbers.
void lay_bare(TokenMixer& mixer) {
  zero(mixer, {"local.weight", "local.bias", "squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias",
               "gate.weight", "mix.bias", "o_proj.bias"});
  for (auto& entry : mixer.named_parameters())
    if (entry.key().starts_with("places.")) entry.value().data().zero_();
  for (const char* name : {"mix.weight", "o_proj.weight"}) parameter(mixer, name).data().copy_(torch::eye(kDim));
  parameter(mixer, "gate.bias").data().fill_(kGate);
}

/// What a laid bare mixer makes of filtered values: a fresh batch norm, half open channels, the gate.
Tensor bare(const Tensor& filtered) { return filtered / std::sqrt(1 + 1e-5) * 0.5 * (kGate / (1 + std::exp(-kGate))); }

TEST(ContextMixingConv, ZeroWeightsGiveMeansOfWindows) {
  torch::manual_seed(1);
  const int64_t height = 9, width = 11;
  const auto in = image_input(height, width, kDim);
  const auto mixer = image_mixer("context_mixing_conv", {{"dim", kDim}, {"kernel", 7}});
  lay_bare(*mixer);
  zero(*mixer, {"kernels.weight", "kernels.bias"});
  const auto values = torch::layer_norm(in.x, {kDim}).view({height, width, kDim});
  auto expected = torch::empty_like(values);
  // Windows are moved inwards at borders.
  const auto begin = [](int64_t at, int64_t side, int64_t cells) {
    return std::clamp<int64_t>(at - side / 2, 0, cells - side);
  };
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (const int64_t half : {0, 1}) {
        const int64_t side = half == 0 ? 5 : 7;
        const auto window =
            values.narrow(0, begin(y, side, height), side).narrow(1, begin(x, side, width), side).flatten(0, 1).mean(0);
        expected[y][x].narrow(0, half * kDim / 2, kDim / 2).copy_(window.narrow(0, half * kDim / 2, kDim / 2));
      }
  EXPECT_LT(relative_error(mixer->forward(in).view({height, width, kDim}), bare(expected)), 1e-10);
}

TEST(ContextMixingConv, KernelsSumToOne) {
  torch::manual_seed(2);
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{9, 11}, {3, 8}, {1, 5}}) {
    auto in = image_input(height, width, kDim);
    in.x = in.x.narrow(1, 0, 1).expand_as(in.x).contiguous();
    const auto mixer = image_mixer("context_mixing_conv", {{"dim", kDim}, {"kernel", 7}});
    lay_bare(*mixer);
    const auto values = torch::layer_norm(in.x, {kDim});
    EXPECT_LT(relative_error(mixer->forward(in), bare(values)), 1e-10) << height << " x " << width;
  }
}

/// The context makes kernels, and is filtered like all channels: its gradient has both parts, and none through kernels
/// that do not depend on it.
TEST(ContextMixingConv, KernelsComeFromTheContext) {
  torch::manual_seed(3);
  const int64_t context = 4;
  auto in = image_input(8, 9, kDim);
  const auto mixer = image_mixer("context_mixing_conv", {{"dim", kDim}, {"kernel", 5}, {"context", context}});
  lay_bare(*mixer);
  const auto own_gradient = [&] {
    in.x = in.x.detach().requires_grad_();
    // Of the small kernels' half, none of which are channels of the context.
    const auto out = mixer->forward(in).narrow(2, 0, kDim / 2);
    return torch::autograd::grad({(out * out.detach()).sum()}, {in.x})[0].narrow(2, kDim - context, context);
  };
  const auto with = own_gradient();
  zero(*mixer, {"k_proj.weight"});
  const auto without = own_gradient();
  // What is left comes through the layer norm, which all channels share.
  EXPECT_GT(relative_error(with, without), 1e-4);
  EXPECT_THROW(make_mixer("context_mixing_conv", {{"dim", 16}, {"context", 16}}), Error);
  EXPECT_THROW(make_mixer("context_mixing_conv", {{"dim", 16}, {"kernel", 4}}), Error);
  EXPECT_THROW(make_mixer("context_mixing_conv", {{"dim", 10}, {"heads", 2}}), Error);
}

/// All of it by the formula: groups, biases by offset, windows that are moved inwards, images smaller than kernels.
TEST(ContextMixingConv, IsWhatTheFormulaSays) {
  test::seed_images(5);
  torch::NoGradGuard no_grad;
  for (const auto& [height, width, side, context, heads] :
       {std::array<int64_t, 5>{8, 9, 5, 0, 1}, {7, 6, 3, 4, 1}, {3, 8, 5, 0, 2}}) {
    const auto in = image_input(height, width, kDim);
    const auto mixer = test::drawn_image_mixer(
        "context_mixing_conv", {{"dim", kDim}, {"kernel", side}, {"context", context}, {"heads", heads}});
    const auto linear = [&](const char* name, const Tensor& x) { return test::linear_of(*mixer, name, x); };
    const auto norm = [&](const std::string& name, const Tensor& x) {  // fresh statistics
      return x / std::sqrt(1 + 1e-5) * parameter(*mixer, name + ".weight") + parameter(*mixer, name + ".bias");
    };
    const auto convolved = [&](const std::string& name, const Tensor& x, int64_t cells, int64_t dilation, bool bias) {
      const auto image = x.t().reshape({1, kDim, height, width});
      return torch::conv2d(image, parameter(*mixer, name + ".weight"),
                           bias ? parameter(*mixer, name + ".bias") : Tensor(), 1, dilation * (cells / 2), dilation,
                           kDim)
          .view({kDim, -1})
          .t();
    };
    const auto x = in.x[0];
    const auto fused = torch::layer_norm(x + convolved("local", x, 3, 1, true), {kDim},
                                         parameter(*mixer, "norm.weight"), parameter(*mixer, "norm.bias"));
    const int64_t own = kDim - context, groups = 2 * heads, size = own / 2 / groups;
    const auto q = norm("q_norm", linear("q_proj", fused.narrow(1, 0, own)));
    const auto told = context == 0 ? fused : fused.narrow(1, own, context);
    const auto regions = torch::adaptive_avg_pool2d(told.t().reshape({1, told.size(1), height, width}), {7, 7});
    const auto k = norm("k_norm", linear("k_proj", regions.flatten(2)[0].t()));
    auto filtered = torch::zeros({height * width, kDim}, torch::kFloat64);
    for (int64_t g = 0; g < groups; ++g) {
      const auto of = [&](const Tensor& t) { return t.narrow(1, g * size, size); };
      const auto made = linear("kernels", torch::matmul(of(q), of(k).t()) / std::sqrt(double(own) / double(groups)));
      for (const bool large : {false, true}) {
        const int64_t cells = large ? side : 5, rows = std::min(cells, height), columns = std::min(cells, width);
        const auto table = parameter(*mixer, large ? "far_bias" : "near_bias")[g].view({2 * cells - 1, 2 * cells - 1});
        const int64_t channels = kDim / 2 / groups, first = (large ? kDim / 2 : 0) + g * channels;
        for (int64_t i = 0; i < height * width; ++i) {
          const auto kernel = made[i].narrow(0, large ? 25 : 0, cells * cells).view({cells, cells});
          const int64_t top = std::clamp<int64_t>(i / width - cells / 2, 0, height - rows),
                        left = std::clamp<int64_t>(i % width - cells / 2, 0, width - columns);
          std::vector<Tensor> logits, values;
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c) {
              logits.push_back(kernel[(cells - rows) / 2 + r][(cells - columns) / 2 + c] +
                               table[top + r - i / width + cells - 1][left + c - i % width + cells - 1]);
              values.push_back(fused[(top + r) * width + left + c].narrow(0, first, channels));
            }
          filtered[i]
              .narrow(0, first, channels)
              .copy_(torch::matmul(torch::softmax(torch::stack(logits), 0), torch::stack(values)));
        }
      }
    }
    auto y = norm("mix_norm", linear("mix", filtered));
    using Branches = std::vector<std::pair<int64_t, int64_t>>;
    const auto branches = side == 3 ? Branches{{3, 1}} : Branches{{5, 1}, {3, 1}, {3, 2}};
    for (size_t b = 0; b < branches.size(); ++b) {
      const auto number = std::to_string(b);
      y = y + norm("places.norm_" + number,
                   convolved("places.conv_" + number, fused, branches[b].first, branches[b].second, false));
    }
    const auto open = torch::sigmoid(linear("excite", torch::relu(linear("squeeze", y.mean(0)))));
    const auto expected = linear("o_proj", y * open * torch::silu(linear("gate", fused)));
    EXPECT_LT(relative_error(mixer->forward(in)[0], expected), 1e-10) << height << " x " << width << " " << side;
  }
}

TEST(ContextMixingConv, OneLayerSeesTheWholeImage) {
  torch::manual_seed(4);
  const auto in = image_input(20, 20, kDim);
  const auto mixer = image_mixer("context_mixing_conv", {{"dim", kDim}});
  EXPECT_EQ(test::reached(*mixer, in, 0).sum().item<int64_t>(), 400);
}

/// Kernels that are not made from affinities are the softmax of the biases by offset, whatever the image.
TEST(ContextMixingConv, StaticKernelsAreThoseOfTheBiases) {
  test::seed_images(46);
  torch::NoGradGuard no_grad;
  const int64_t side = 9;
  auto in = image_input(side, side, kDim);
  const auto mixer = test::drawn_image_mixer("context_mixing_conv", {{"dim", kDim}, {"kernel", 7}, {"dynamic", false}});
  EXPECT_FALSE(mixer->named_parameters().contains("q_proj.weight"));
  lay_bare(*mixer);
  zero(*mixer, {"norm.bias", "mix_norm.bias"});
  for (const char* name : {"norm.weight", "mix_norm.weight"}) parameter(*mixer, name).fill_(1);
  const auto values = torch::layer_norm(in.x, {kDim}).view({side, side, kDim});
  // The middle cell's large window is cells 1 to 7, offsets -3 to 3 of a table of -6 to 6; the last channels are its.
  const auto bias = parameter(*mixer, "far_bias")[1].view({13, 13}).narrow(0, 3, 7).narrow(1, 3, 7);
  const auto kernel = torch::softmax(bias.flatten(), 0).view({7, 7, 1});
  const auto last = values.narrow(0, 1, 7).narrow(1, 1, 7).narrow(2, kDim - kDim / 4, kDim / 4);
  const auto found = mixer->forward(in).view({side, side, kDim})[4][4].narrow(0, kDim - kDim / 4, kDim / 4);
  EXPECT_LT(relative_error(found, bare((last * kernel).flatten(0, 1).sum(0))), 1e-10);
}

}  // namespace
}  // namespace heed::context_mixing_test
