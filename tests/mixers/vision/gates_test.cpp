// The cards of gates in the place of attention: convolutions, strips, maps, spectra, perceptrons.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/image_support.h"

namespace heed::gates_test {
namespace {

using nlohmann::json;
using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

void zero(torch::nn::Module& mixer, std::initializer_list<const char*> names) {
  for (const auto* name : names) parameter(mixer, name).data().zero_();
}

TEST(LargeKernelAttention, SeesTwentyThreeCells) {
  torch::manual_seed(1);
  const int64_t side = 31;
  const auto in = image_input(side, side, 4);
  const auto mixer = image_mixer("large_kernel_attention", {{"dim", 4}});
  const auto seen = reached(*mixer, in, side * (side / 2) + side / 2).view({side, side});
  // 5 cells and 7 of them 3 apart: 5 + 6 x 3.
  auto expected = torch::zeros({side, side}, torch::kBool);
  expected.narrow(0, 4, 23).narrow(1, 4, 23).fill_(true);
  EXPECT_TRUE(torch::equal(seen, expected));
  int64_t gate = 0;
  for (const auto& p : mixer->named_parameters())
    if (p.key().find("proj") == std::string::npos) gate += p.value().numel();
  EXPECT_EQ(gate, 4 * (25 + 49) + 4 * 4 + 3 * 4);
}

TEST(LargeKernelAttention, AGateOfOnesPassesWhatItGates) {
  torch::manual_seed(2);
  const auto in = image_input(5, 6, 4);
  const auto mixer = image_mixer("large_kernel_attention", {{"dim", 4}, {"kernel", 5}, {"dilation", 2}});
  zero(*mixer, {"gate.weight"});
  parameter(*mixer, "gate.bias").data().fill_(1);
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return torch::linear(x, parameter(*mixer, name + ".weight"), parameter(*mixer, name + ".bias"));
  };
  EXPECT_LT(relative_error(mixer->forward(in), in.x + linear("o_proj", torch::gelu(linear("in_proj", in.x)))), kDouble);
  EXPECT_THROW(make_mixer("large_kernel_attention", {{"kernel", 6}, {"dilation", 3}}), Error);
}

TEST(EfficientLocalAttention, ClosedConvolutionsGiveAQuarter) {
  torch::manual_seed(3);
  const auto in = image_input(4, 5, 8, 2);
  const auto mixer = image_mixer("efficient_local_attention", {{"dim", 8}, {"norm_groups", 2}});
  const auto share = mixer->forward(in) / in.x;
  EXPECT_GT(share.min().item<double>(), 0);
  EXPECT_LT(share.max().item<double>(), 1);
  zero(*mixer, {"conv.weight"});
  EXPECT_LT(relative_error(mixer->forward(in), in.x / 4), kDouble);
}

TEST(EfficientLocalAttention, RowsAndColumnsAreAlike) {
  torch::manual_seed(4);
  const auto in = image_input(5, 5, 8);
  auto turned = in;
  turned.x = in.x.view({1, 5, 5, 8}).transpose(1, 2).reshape({1, 25, 8});
  const auto mixer = image_mixer("efficient_local_attention", {{"dim", 8}, {"norm_groups", 4}});
  const auto expected = mixer->forward(in).view({1, 5, 5, 8}).transpose(1, 2).reshape({1, 25, 8});
  EXPECT_LT(relative_error(mixer->forward(turned), expected), kDouble);
}

TEST(SubspaceAttention, MapsAddUpToOne) {
  torch::manual_seed(5);
  const auto in = image_input(4, 6, 8, 2);
  const auto mixer = image_mixer("subspace_attention", {{"dim", 8}, {"groups", 2}});
  const auto added = (mixer->forward(in) / in.x - 1).sum(1);  // over cells, for every channel
  EXPECT_LT((added - 1).abs().max().item<double>(), 1e-9);
  zero(*mixer, {"map.weight"});
  EXPECT_LT(relative_error(mixer->forward(in), in.x * (1 + 1 / 24.0)), kDouble);
}

TEST(SubspaceAttention, GroupsAreAlike) {
  torch::manual_seed(6);
  const auto in = image_input(3, 4, 8);
  const auto mixer = image_mixer("subspace_attention", {{"dim", 8}, {"groups", 2}});
  const auto before = mixer->forward(in);
  const auto swap = [](const Tensor& t, int64_t axis) { return t.roll({t.size(axis) / 2}, {axis}); };
  auto swapped = in;
  swapped.x = swap(in.x, 2);
  for (const char* name : {"scale.weight", "map.weight"}) {
    auto weight = parameter(*mixer, name).data();
    weight.copy_(swap(weight.clone(), 0));
  }
  EXPECT_LT(relative_error(mixer->forward(swapped), swap(before, 2)), kDouble);
}

TEST(SpectralGating, IsACircularConvolution) {
  torch::manual_seed(7);
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{6, 6}, {5, 7}, {3, 4}}) {
    const auto in = image_input(height, width, 2);
    const auto mixer = image_mixer("spectral_gating", {{"dim", 2}, {"height", height}, {"width", width}});
    const auto filter = parameter(*mixer, "filter");
    const std::vector<int64_t> axes{0, 1}, sizes{height, width};
    const auto kernel = torch::fft_irfftn(torch::view_as_complex(filter.contiguous()), sizes, axes);
    const auto x = in.x.view({height, width, 2});
    auto expected = torch::zeros_like(x);
    for (int64_t i = 0; i < height; ++i)
      for (int64_t j = 0; j < width; ++j) expected += kernel[i][j] * x.roll({i, j}, {0, 1});
    EXPECT_LT(relative_error(mixer->forward(in).view_as(expected), expected), kDouble);
  }
}

TEST(SpectralGating, FiltersOfOneAndOfMeans) {
  torch::manual_seed(8);
  const auto in = image_input(4, 6, 3);
  const auto mixer = image_mixer("spectral_gating", {{"dim", 3}, {"height", 4}, {"width", 6}});
  auto filter = parameter(*mixer, "filter").data();
  filter.zero_();
  filter.select(3, 0).fill_(1);
  EXPECT_LT(relative_error(mixer->forward(in), in.x), kDouble);
  // Another image has the filter of ones, too.
  const auto other = image_input(7, 5, 3);
  EXPECT_LT(relative_error(mixer->forward(other), other.x), kDouble);
  filter.zero_();
  filter[0][0].select(1, 0).fill_(1);
  EXPECT_LT(relative_error(mixer->forward(in), in.x.mean(1, true).expand_as(in.x)), kDouble);
}

TEST(ActivatorGlu, DoesNotMixTokens) {
  torch::manual_seed(9);
  const auto in = image_input(3, 4, 6);
  const auto mixer = image_mixer("activator_glu", {{"dim", 6}, {"hidden", 10}});
  EXPECT_EQ(reached(*mixer, in, 5).sum().item<int64_t>(), 1);
  int64_t parameters = 0;
  for (const auto& p : mixer->parameters()) parameters += p.numel();
  EXPECT_EQ(parameters, 3 * 6 * 10 + 2 * 10 + 6 + 2 * 10);
  zero(*mixer, {"o_proj.weight", "o_proj.bias"});
  EXPECT_EQ(mixer->forward(in).abs().max().item<double>(), 0);
}

TEST(NinformerGating, IsAGateOfAllTokens) {
  torch::manual_seed(10);
  const auto in = image_input(3, 4, 6);
  const auto mixer = image_mixer("ninformer_gating", {{"dim", 6}, {"max_length", 12}});
  EXPECT_EQ(reached(*mixer, in, 5).sum().item<int64_t>(), 12);
  // Places matter.
  auto turned = in;
  turned.x = in.x.flip({1});
  EXPECT_GT(relative_error(mixer->forward(turned), mixer->forward(in).flip({1})), 1e-3);
  zero(*mixer, {"token_down.weight", "token_down.bias", "channel_down.weight", "channel_down.bias"});
  const auto value = torch::linear(in.x, parameter(*mixer, "value.weight"), parameter(*mixer, "value.bias"));
  EXPECT_LT(relative_error(mixer->forward(in), value * in.x), kDouble);
  zero(*mixer, {"value.weight", "value.bias"});
  EXPECT_EQ(mixer->forward(in).abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace heed::gates_test
