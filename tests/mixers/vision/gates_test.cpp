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

/// Away from borders, which zeros surround, an image that moves takes what is made of it along.
TEST(LargeKernelAttention, MovesWithTheImage) {
  test::seed_images(21);
  torch::NoGradGuard no_grad;
  const int64_t reach = 11;  // of the 23 cells on either side
  const auto mixer = test::drawn_image_mixer("large_kernel_attention", {{"dim", 3}});
  const auto wide = image_input(30, 31, 3);
  const auto part = [](const Tensor& x, int64_t width, int64_t top, int64_t left, int64_t rows, int64_t columns) {
    return x.unflatten(1, {-1, width}).narrow(1, top, rows).narrow(2, left, columns).flatten(1, 2);
  };
  auto moved = image_input(28, 26, 3);
  moved.x = part(wide.x, 31, 2, 5, 28, 26);
  EXPECT_LT(relative_error(part(mixer->forward(moved), 26, reach, reach, 6, 4),
                           part(mixer->forward(wide), 31, reach + 2, reach + 5, 6, 4)),
            kDouble);
}

/// Without biases twice the input is four times the gated output. GELU of large numbers is the number itself.
TEST(LargeKernelAttention, GatesAreQuadratic) {
  test::seed_images(22);
  torch::NoGradGuard no_grad;
  auto in = image_input(6, 7, 4);
  in.x = 40 + 10 * torch::rand_like(in.x);
  const auto mixer = test::drawn_image_mixer("large_kernel_attention", {{"dim", 4}});
  zero(*mixer, {"in_proj.bias", "near.bias", "far.bias", "gate.bias", "o_proj.bias"});
  for (const char* name : {"in_proj.weight", "o_proj.weight"}) parameter(*mixer, name).copy_(torch::eye(4));
  auto twice = in;
  twice.x = 2 * in.x;
  EXPECT_LT(relative_error(mixer->forward(twice) - twice.x, 4 * (mixer->forward(in) - in.x)), kDouble);
  // The gate is what the two convolutions and the map make of the image.
  const auto image = in.x.view({1, 6, 7, 4}).permute({0, 3, 1, 2});
  const auto near = torch::conv2d(image, parameter(*mixer, "near.weight"), {}, 1, 2, 1, 4);
  const auto far = torch::conv2d(near, parameter(*mixer, "far.weight"), {}, 1, 9, 3, 4);
  const auto gate = torch::matmul(far.flatten(2).transpose(1, 2), parameter(*mixer, "gate.weight").t());
  EXPECT_LT(relative_error(mixer->forward(in), in.x + gate * in.x), kDouble);
}

/// Kernels of 7, 13 and 23 cells, as the card's ablation asks for.
TEST(LargeKernelAttention, OtherKernelsReachAsFarAsTheirParts) {
  test::seed_images(23);
  torch::NoGradGuard no_grad;
  const int64_t side = 31;
  for (const auto& [kernel, dilation, reach] : {std::array<int64_t, 3>{7, 1, 7}, {9, 3, 11}, {15, 3, 17}}) {
    const auto mixer =
        test::drawn_image_mixer("large_kernel_attention", {{"dim", 2}, {"kernel", kernel}, {"dilation", dilation}});
    const auto in = image_input(side, side, 2);
    const auto seen = reached(*mixer, in, side * (side / 2) + side / 2).view({side, side});
    EXPECT_EQ(seen.sum().item<int64_t>(), reach * reach) << kernel << " " << dilation;
  }
}

/// The ablations of the card: what the gate does, and the near convolution alone.
TEST(LargeKernelAttention, OtherGatesAreWhatTheySay) {
  test::seed_images(42);
  torch::NoGradGuard no_grad;
  const auto in = image_input(6, 7, 4);
  const auto image_of = [](const Tensor& x) { return x.view({1, 6, 7, 4}).permute({0, 3, 1, 2}); };
  for (const bool dilated : {true, false})
    for (const std::string gate : {"product", "sigmoid", "sum"}) {
      const auto mixer = test::drawn_image_mixer(
          "large_kernel_attention", {{"dim", 4}, {"kernel", 5}, {"dilation", 2}, {"gate", gate}, {"dilated", dilated}});
      const auto x = torch::gelu(test::linear_of(*mixer, "in_proj", in.x));
      auto around =
          torch::conv2d(image_of(x), parameter(*mixer, "near.weight"), parameter(*mixer, "near.bias"), 1, 1, 1, 4);
      if (dilated)
        around = torch::conv2d(around, parameter(*mixer, "far.weight"), parameter(*mixer, "far.bias"), 1, 2, 2, 4);
      EXPECT_EQ(mixer->named_parameters().contains("far.weight"), dilated);
      const auto g = test::linear_of(*mixer, "gate", around.flatten(2).transpose(1, 2));
      const auto gated = gate == "product" ? g * x : gate == "sigmoid" ? torch::sigmoid(g) * x : g + x;
      EXPECT_LT(relative_error(mixer->forward(in), in.x + test::linear_of(*mixer, "o_proj", gated)), kDouble)
          << gate << " " << dilated;
    }
}

TEST(Convolution, MayBeDepthwiseAndGated) {
  test::seed_images(43);
  torch::NoGradGuard no_grad;
  auto in = image_input(4, 5, 6, 2);
  in.key_padding = torch::zeros({2, 20}, torch::kBool);
  in.key_padding->slice(1, 17).fill_(true);
  for (const bool depthwise : {false, true}) {
    const auto mixer = test::drawn_image_mixer(
        "convolution",
        {{"dim", 6}, {"kernel", 3}, {"depthwise", depthwise}, {"gate", {{"name", "squeeze_excitation"}}}});
    const auto hidden = in.key_padding->unsqueeze(2);
    const auto image = in.x.masked_fill(hidden, 0).view({2, 4, 5, 6}).permute({0, 3, 1, 2});
    const auto around = torch::conv2d(image, parameter(*mixer, "conv.weight"), parameter(*mixer, "conv.bias"), 1, 1, 1,
                                      depthwise ? 6 : 1)
                            .flatten(2)
                            .transpose(1, 2)
                            .masked_fill(hidden, 0);
    const auto mean = around.sum(1, true) / 17;
    const auto gate = torch::sigmoid(
        test::linear_of(*mixer, "gate.excite", torch::relu(test::linear_of(*mixer, "gate.squeeze", mean))));
    EXPECT_LT(relative_error(mixer->forward(in).masked_fill(hidden, 0), around * gate), kDouble) << depthwise;
  }
  EXPECT_THROW(make_mixer("convolution", {{"gate", {{"reduction", 4}}}}), Error);
  EXPECT_THROW(make_mixer("convolution", {{"gate", {{"name", "squeeze"}}}}), Error);
}

TEST(SqueezeExcitation, IsWhatTheFormulaSays) {
  test::seed_images(44);
  torch::NoGradGuard no_grad;
  const auto in = image_input(3, 5, 8, 2);
  const auto mixer = test::drawn_image_mixer("squeeze_excitation", {{"dim", 8}, {"reduction", 3}});
  EXPECT_EQ(parameter(*mixer, "squeeze.weight").size(0), 2);
  const auto inner = torch::relu(test::linear_of(*mixer, "squeeze", in.x.mean(1, true)));
  EXPECT_LT(relative_error(mixer->forward(in), in.x * torch::sigmoid(test::linear_of(*mixer, "excite", inner))),
            kDouble);
}

TEST(CoordinateAttention, IsWhatTheFormulaSays) {
  test::seed_images(45);
  torch::NoGradGuard no_grad;
  const int64_t height = 3, width = 5;
  const auto in = image_input(height, width, 6, 2);
  const auto mixer = test::drawn_image_mixer("coordinate_attention", {{"dim", 6}, {"reduction", 2}});
  EXPECT_EQ(parameter(*mixer, "squeeze.weight").size(0), 8);  // the fewest
  mixer->train();
  const auto x = in.x.view({2, height, width, 6});
  // One batch norm over the strips of both directions.
  const std::vector<int64_t> axes{0, 1};
  const auto squeezed = test::linear_of(*mixer, "squeeze", torch::cat({x.mean(2), x.mean(1)}, 1));
  const auto apart = squeezed - squeezed.mean(axes, true);
  const auto normed = apart / (apart.square().mean(axes, true) + 1e-5).sqrt() * parameter(*mixer, "norm.weight") +
                      parameter(*mixer, "norm.bias");
  const auto inner = normed * (normed + 3).clamp(0, 6) / 6;
  const auto row = torch::sigmoid(test::linear_of(*mixer, "rows", inner.narrow(1, 0, height))),
             column = torch::sigmoid(test::linear_of(*mixer, "columns", inner.narrow(1, height, width)));
  EXPECT_LT(relative_error(mixer->forward(in), (x * row.unsqueeze(2) * column.unsqueeze(1)).flatten(1, 2)), kDouble);
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

TEST(EfficientLocalAttention, IsWhatTheFormulaSays) {
  test::seed_images(24);
  torch::NoGradGuard no_grad;
  // The four variants of the paper, narrower.
  for (const auto& [kernel, groups, norm_groups] :
       {std::array<int64_t, 3>{5, 16, 8}, {7, 16, 4}, {5, 2, 4}, {7, 2, 4}}) {
    const int64_t height = 5, width = 9;
    const auto in = image_input(height, width, 16, 2);
    const auto mixer = test::drawn_image_mixer(
        "efficient_local_attention",
        {{"dim", 16}, {"kernel", kernel}, {"groups", groups == 16 ? 0 : groups}, {"norm_groups", norm_groups}});
    const auto weight = parameter(*mixer, "conv.weight");
    const auto gate = [&](const Tensor& strip) {  // [2, n, 16]
      const int64_t n = strip.size(1), own = 16 / groups;
      auto around = torch::zeros_like(strip);
      for (int64_t c = 0; c < 16; ++c)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t d = 0; d < own; ++d)
            for (int64_t t = 0; t < kernel; ++t) {
              const int64_t at = i + t - kernel / 2;
              if (at >= 0 && at < n)
                around.select(1, i).select(1, c) += weight[c][d][t] * strip.select(1, at).select(1, c / own * own + d);
            }
      const auto by_group = around.view({2, n, norm_groups, -1});
      const auto mean = by_group.mean({1, 3}, true), apart = by_group - mean;
      const auto normed = (apart / (apart.square().mean({1, 3}, true) + 1e-5).sqrt()).view({2, n, 16});
      return torch::sigmoid(normed * parameter(*mixer, "norm.weight") + parameter(*mixer, "norm.bias"));
    };
    const auto x = in.x.view({2, height, width, 16});
    const auto expected = x * gate(x.mean(2)).unsqueeze(2) * gate(x.mean(1)).unsqueeze(1);
    EXPECT_LT(relative_error(mixer->forward(in), expected.flatten(1, 2)), kDouble) << kernel << " " << groups;
  }
}

TEST(EfficientLocalAttention, AConstantImageHasConstantGatesInside) {
  test::seed_images(25);
  torch::NoGradGuard no_grad;
  auto in = image_input(9, 11, 8);
  in.x = torch::randn({1, 1, 8}, torch::kFloat64).expand({1, 99, 8}).contiguous();
  const auto mixer =
      test::drawn_image_mixer("efficient_local_attention", {{"dim", 8}, {"kernel", 5}, {"norm_groups", 2}});
  const auto share = (mixer->forward(in) / in.x).view({9, 11, 8});
  const auto inside = share.narrow(0, 2, 5).narrow(1, 2, 7);
  EXPECT_LT((inside - share[4][5]).abs().max().item<double>(), 1e-12);
  EXPECT_GT((share[0][0] - share[4][5]).abs().max().item<double>(), 1e-3);
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

TEST(SubspaceAttention, HasAScaleAndAMapWeightAChannel) {
  for (const int64_t groups : {1, 2, 8}) {
    const auto mixer = image_mixer("subspace_attention", {{"dim", 8}, {"groups", groups}});
    int64_t count = 0;
    for (const auto& p : mixer->parameters()) count += p.numel();
    EXPECT_EQ(count, 2 * 8 + 2 * (8 + groups)) << groups;
    EXPECT_EQ(mixer->forward(image_input(3, 5, 8, 2)).sizes(), (std::vector<int64_t>{2, 15, 8}));
  }
}

TEST(SubspaceAttention, WithoutMaximaTheOrderOfCellsMeansNothing) {
  test::seed_images(26);
  torch::NoGradGuard no_grad;
  const auto in = image_input(4, 6, 8, 2);
  auto shuffled = in;
  const auto order = torch::randperm(24);
  shuffled.x = in.x.index_select(1, order);
  for (const bool pool : {false, true}) {
    const auto mixer = test::drawn_image_mixer("subspace_attention", {{"dim", 8}, {"groups", 2}, {"pool", pool}});
    const double moved = relative_error(mixer->forward(shuffled), mixer->forward(in).index_select(1, order));
    if (pool)
      EXPECT_GT(moved, 1e-4);
    else
      EXPECT_LT(moved, kDouble);
  }
}

TEST(SubspaceAttention, IsWhatTheFormulaSays) {
  test::seed_images(27);
  torch::NoGradGuard no_grad;
  const int64_t height = 4, width = 5;
  const auto in = image_input(height, width, 6);
  const auto mixer = test::drawn_image_mixer("subspace_attention", {{"dim", 6}, {"groups", 2}});
  const auto normed = [&](const std::string& name, const Tensor& x, int64_t channel) {
    // Fresh statistics: mean 0, variance 1.
    return torch::relu(x / std::sqrt(1 + 1e-5) * parameter(*mixer, name + ".weight")[channel] +
                       parameter(*mixer, name + ".bias")[channel]);
  };
  const auto x = in.x.view({height, width, 6});
  auto expected = torch::zeros_like(x);
  for (int64_t g = 0; g < 2; ++g) {
    auto sum = torch::zeros({height, width}, torch::kFloat64);
    for (int64_t c = 3 * g; c < 3 * g + 3; ++c) {
      const auto scaled = normed("scale_norm", x.select(2, c) * parameter(*mixer, "scale.weight")[c][0][0][0], c);
      auto most = torch::zeros_like(scaled);
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j) {
          const int64_t top = std::max<int64_t>(0, i - 1), left = std::max<int64_t>(0, j - 1);
          most[i][j] = scaled.slice(0, top, i + 2).slice(1, left, j + 2).max();
        }
      sum += most * parameter(*mixer, "map.weight")[g][c - 3 * g][0][0];
    }
    const auto map = torch::softmax(normed("map_norm", sum, g).flatten(), 0).view({height, width, 1});
    expected.narrow(2, 3 * g, 3) += x.narrow(2, 3 * g, 3) * (1 + map);
  }
  EXPECT_LT(relative_error(mixer->forward(in), expected.view({1, -1, 6})), kDouble);
}

/// Statistics of the release: nine tenths of what is kept are the last batch's.
TEST(SubspaceAttention, StatisticsFollowTheLastBatch) {
  test::seed_images(28);
  torch::NoGradGuard no_grad;
  const auto mixer = make_mixer("subspace_attention", {{"dim", 4}, {"groups", 2}});
  parameter(*mixer, "scale.weight").fill_(1);
  auto in = image_input(3, 4, 4, 2);
  in.x = in.x.to(torch::kFloat32) + 3;
  mixer->train();
  mixer->forward(in);
  EXPECT_LT(relative_error(mixer->named_buffers()["scale_norm.running_mean"], 0.9 * in.x.flatten(0, 1).mean(0)), 1e-6);
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

TEST(SpectralGating, MovesCyclicallyWithTheImage) {
  test::seed_images(29);
  torch::NoGradGuard no_grad;
  const auto in = image_input(5, 6, 3, 2);
  const auto roll = [](const Tensor& x) { return x.unflatten(1, {5, 6}).roll({2, 3}, {1, 2}).flatten(1, 2); };
  const auto mixer = image_mixer("spectral_gating", {{"dim", 3}, {"height", 5}, {"width", 6}});
  auto rolled = in;
  rolled.x = roll(in.x);
  EXPECT_LT(relative_error(mixer->forward(rolled), roll(mixer->forward(in))), kDouble);
}

/// The energy of what comes out is that of the spectrum under the filter, where columns that stand for two count twice.
TEST(SpectralGating, KeepsTheEnergyOfTheSpectrum) {
  test::seed_images(30);
  torch::NoGradGuard no_grad;
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{4, 6}, {5, 7}}) {
    const auto in = image_input(height, width, 2);
    const auto mixer = image_mixer("spectral_gating", {{"dim", 2}, {"height", height}, {"width", width}});
    auto filter = parameter(*mixer, "filter");
    filter.zero_();
    const auto gains = 1 + torch::rand({width / 2 + 1, 1}, torch::kFloat64);  // real, one a column of frequencies
    filter.select(3, 0).copy_(gains.expand({height, width / 2 + 1, 2}));
    // Frequencies by the definition.
    const auto x = in.x.view({height, width, 2});
    double energy = 0;
    for (int64_t u = 0; u < height; ++u)
      for (int64_t w = 0; w < width / 2 + 1; ++w) {
        auto real = torch::zeros({2}, torch::kFloat64), imaginary = torch::zeros({2}, torch::kFloat64);
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j) {
            const double angle = -2 * M_PI * (double(u * i) / double(height) + double(w * j) / double(width));
            real += x[i][j] * std::cos(angle), imaginary += x[i][j] * std::sin(angle);
          }
        const bool twice = w > 0 && 2 * w != width;
        const double gain = gains[w].item<double>();
        energy += (real.square() + imaginary.square()).sum().item<double>() * gain * gain * (twice ? 2 : 1) /
                  double(height * width);
      }
    EXPECT_NEAR(mixer->forward(in).square().sum().item<double>() / energy, 1, 1e-12);
  }
}

/// Of the columns of frequency 0 and of half the width only the Hermitian part counts.
TEST(SpectralGating, AntiHermitianPartsOfRealColumnsHaveNoEffect) {
  test::seed_images(31);
  torch::NoGradGuard no_grad;
  const auto in = image_input(5, 6, 2);
  const auto mixer = image_mixer("spectral_gating", {{"dim", 2}, {"height", 5}, {"width", 6}});
  const auto before = mixer->forward(in);
  auto filter = parameter(*mixer, "filter");
  for (const int64_t column : {0, 3}) {
    const auto added = torch::randn({5, 2}, torch::kFloat64);
    const auto mirrored = added.index_select(0, torch::tensor({0, 4, 3, 2, 1}));
    filter.select(1, column).select(2, 0).add_(added - mirrored);  // odd real part, even imaginary part
    filter.select(1, column).select(2, 1).add_(added + mirrored);
  }
  EXPECT_LT(relative_error(mixer->forward(in), before), kDouble);
  filter.select(1, 1).add_(1);
  EXPECT_GT(relative_error(mixer->forward(in), before), 1e-2);
}

TEST(Convolution, IsWhatTheFormulaSays) {
  test::seed_images(40);
  torch::NoGradGuard no_grad;
  const auto in = image_input(4, 5, 3);
  const auto mixer = test::drawn_image_mixer("convolution", {{"dim", 3}});
  const auto weight = parameter(*mixer, "conv.weight"), bias = parameter(*mixer, "conv.bias");
  auto expected = bias.repeat({20, 1});
  for (int64_t i = 0; i < 20; ++i)
    for (int64_t d = 0; d < 9; ++d) {
      const int64_t row = i / 5 + d / 3 - 1, column = i % 5 + d % 3 - 1;
      if (row < 0 || row >= 4 || column < 0 || column >= 5) continue;
      expected[i] += torch::mv(weight.select(3, d % 3).select(2, d / 3), in.x[0][row * 5 + column]);
    }
  EXPECT_LT(relative_error(mixer->forward(in)[0], expected), kDouble);
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

TEST(ActivatorGlu, IsWhatTheFormulaSays) {
  test::seed_images(32);
  torch::NoGradGuard no_grad;
  const auto in = image_input(3, 4, 6);
  const auto mixer = test::drawn_image_mixer("activator_glu", {{"dim", 6}, {"hidden", 10}});
  const auto linear = [&](const char* name, const Tensor& x) { return test::linear_of(*mixer, name, x); };
  const auto norm = [&](const Tensor& x) {
    return torch::layer_norm(x, {10}, parameter(*mixer, "norm.weight"), parameter(*mixer, "norm.bias"));
  };
  const auto expected = linear("o_proj", norm(torch::gelu(linear("activated", in.x))) * norm(linear("linear", in.x)));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

TEST(MlpMixer, IsAPerceptronOverTokens) {
  test::seed_images(41);
  torch::NoGradGuard no_grad;
  const auto mixer = test::drawn_image_mixer("mlp_mixer", {{"dim", 6}, {"max_length", 12}, {"hidden", 7}});
  for (const int64_t tokens : {12, 5}) {
    const auto x = torch::randn({2, tokens, 6}, torch::kFloat64);
    const auto columns = torch::constant_pad_nd(x, {0, 0, 0, 12 - tokens}).transpose(1, 2);
    const auto inner = torch::gelu(test::linear_of(*mixer, "token_up", columns));
    const auto expected = test::linear_of(*mixer, "token_down", inner).transpose(1, 2).narrow(1, 0, tokens);
    EXPECT_LT(relative_error(mixer->forward({.x = x}), expected), kDouble) << tokens;
  }
  EXPECT_THROW(mixer->forward({.x = torch::randn({1, 13, 6}, torch::kFloat64)}), Error);
}

TEST(NinformerGating, IsWhatTheFormulaSays) {
  test::seed_images(33);
  torch::NoGradGuard no_grad;
  const auto mixer = test::drawn_image_mixer("ninformer_gating", {{"dim", 6}, {"max_length", 12}, {"hidden", 7}});
  const auto linear = [&](const char* name, const Tensor& x) { return test::linear_of(*mixer, name, x); };
  const auto norm = [&](const std::string& name, const Tensor& x) {
    return torch::layer_norm(x, {6}, parameter(*mixer, name + ".weight"), parameter(*mixer, name + ".bias"));
  };
  for (const int64_t tokens : {12, 5}) {
    const auto x = torch::randn({2, tokens, 6}, torch::kFloat64);
    // Fewer tokens are the first ones, the others of which there is nothing.
    const auto columns = torch::constant_pad_nd(norm("token_norm", x), {0, 0, 0, 12 - tokens}).transpose(1, 2);
    const auto mixed = linear("token_down", torch::gelu(linear("token_up", columns))).transpose(1, 2);
    auto gate = x + mixed.narrow(1, 0, tokens);
    gate = gate + linear("channel_down", torch::gelu(linear("channel_up", norm("channel_norm", gate))));
    EXPECT_LT(relative_error(mixer->forward({.x = x}), linear("value", x) * gate), kDouble) << tokens;
  }
  EXPECT_THROW(mixer->forward({.x = torch::randn({1, 13, 6}, torch::kFloat64)}), Error);
}

/// A hidden unit of place p hears tokens up to p and is heard by those from p on.
TEST(NinformerGating, CausalWeightsAreTriangular) {
  test::seed_images(34);
  torch::NoGradGuard no_grad;
  for (const int64_t hidden : {5, 12, 30}) {
    const auto mixer = test::drawn_image_mixer("ninformer_gating",
                                               {{"dim", 6}, {"max_length", 12}, {"hidden", hidden}, {"causal", true}});
    const auto x = torch::randn({2, 12, 6}, torch::kFloat64);
    const auto columns =
        torch::layer_norm(x, {6}, parameter(*mixer, "token_norm.weight"), parameter(*mixer, "token_norm.bias"));
    auto mixed = parameter(*mixer, "token_down.bias").view({1, 12, 1}).expand({2, 12, 6}).clone();
    for (int64_t f = 0; f < hidden; ++f) {
      const int64_t place = f * 12 / hidden;
      auto heard = parameter(*mixer, "token_up.bias")[f].expand({2, 6}).clone();
      for (int64_t t = 0; t <= place; ++t) heard += parameter(*mixer, "token_up.weight")[f][t] * columns.select(1, t);
      for (int64_t t = place; t < 12; ++t)
        mixed.select(1, t) += parameter(*mixer, "token_down.weight")[t][f] * torch::gelu(heard);
    }
    auto gate = x + mixed;
    const auto normed =
        torch::layer_norm(gate, {6}, parameter(*mixer, "channel_norm.weight"), parameter(*mixer, "channel_norm.bias"));
    gate = gate + test::linear_of(*mixer, "channel_down", torch::gelu(test::linear_of(*mixer, "channel_up", normed)));
    EXPECT_LT(relative_error(mixer->forward({.x = x}), test::linear_of(*mixer, "value", x) * gate), kDouble) << hidden;
    auto state = mixer->make_state(2);
    mixer->forward({.x = x}, state.get());
    EXPECT_THROW(mixer->forward({.x = x.narrow(1, 0, 1)}, state.get()), Error);  // beyond max_length
  }
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
