// The card of convolutions whose kernels come from affinities to a context.
#include <gtest/gtest.h>

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

TEST(ContextMixingConv, OneLayerSeesTheWholeImage) {
  torch::manual_seed(4);
  const auto in = image_input(20, 20, kDim);
  const auto mixer = image_mixer("context_mixing_conv", {{"dim", kDim}});
  EXPECT_EQ(test::reached(*mixer, in, 0).sum().item<int64_t>(), 400);
}

}  // namespace
}  // namespace heed::context_mixing_test
