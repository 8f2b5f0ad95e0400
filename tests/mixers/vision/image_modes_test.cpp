// What all mixers of images claim in all of their modes: gradients over odd grids, padding that is no part of the
// image, inputs that do not fit.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/gradient_check.h"
#include "support/image_support.h"

namespace heed::image_modes_test {
namespace {

using nlohmann::json;
using test::drawn_image_mixer;
using test::image_input;
using test::relative_error;
using torch::Tensor;

struct Mode {
  const char* label;
  const char* mixer;
  json config;
  /// Whether cells of padding below and on the right leave no trace: what cuts an image into a fixed number of parts,
  /// or transforms it as a whole, cuts and transforms the padding with it.
  bool crops;
};

std::vector<Mode> modes() {
  return {
      {"routing", "bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", 3}, {"top", 2}}, false},
      {"soft_routing",
       "bilevel_routing_attention",
       {{"dim", 8}, {"heads", 2}, {"regions", 3}, {"top", 2}, {"soft", true}},
       false},
      {"all_regions", "bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", 2}, {"top", 99}}, false},
      {"blocks", "multi_axis_attention", {{"dim", 8}, {"heads", 2}, {"size", 3}, {"axes", "block"}}, true},
      {"grids", "multi_axis_attention", {{"dim", 8}, {"heads", 2}, {"size", 3}, {"axes", "grid"}}, false},
      {"blocks_and_grids", "multi_axis_attention", {{"dim", 8}, {"heads", 2}, {"size", 2}}, false},
      {"grids_and_blocks",
       "multi_axis_attention",
       {{"dim", 8}, {"heads", 2}, {"size", 2}, {"axes", "grid_first"}},
       false},
      {"halo", "halo_attention", {{"dim", 8}, {"heads", 2}, {"block", 3}, {"halo", 2}}, true},
      {"halo_of_zeros",
       "halo_attention",
       {{"dim", 8}, {"heads", 2}, {"block", 3}, {"halo", 2}, {"mask_border", false}},
       false},
      {"double_window", "double_window_attention", {{"dim", 8}, {"heads", 4}, {"size", 4}}, true},
      {"alternating_window",
       "double_window_attention",
       {{"dim", 8}, {"heads", 4}, {"size", 4}, {"shift", "alternate"}},
       true},
      {"one_window", "factorization_attention", {{"dim", 16}, {"heads", 2}, {"reduction", 1}}, false},
      {"released_windows",
       "factorization_attention",
       {{"dim", 16}, {"heads", 1}, {"reduction", 2}, {"released_pooling", true}},
       false},
      {"two_windows", "factorization_attention", {{"dim", 16}, {"heads", 1}, {"reduction", 3}}, false},
      {"aggregated", "aggregated_attention", {{"dim", 8}, {"heads", 2}, {"bias_hidden", 6}, {"reduction", 2}}, false},
      {"aggregated_dense",
       "aggregated_attention",
       {{"dim", 8}, {"heads", 2}, {"bias_hidden", 6}, {"reduction", 1}},
       true},
      {"aggregated_neighbours", "aggregated_attention", {{"dim", 8}, {"heads", 2}, {"keys", "near"}}, true},
      {"aggregated_pooled",
       "aggregated_attention",
       {{"dim", 8}, {"heads", 2}, {"bias_hidden", 6}, {"keys", "pooled"}},
       false},
      {"aggregated_table", "aggregated_attention", {{"dim", 8}, {"heads", 2}, {"side", 4}, {"bias", "table"}}, false},
      {"convolution", "convolution", {{"dim", 6}, {"kernel", 3}}, true},
      {"depthwise", "convolution", {{"dim", 6}, {"kernel", 3}, {"depthwise", true}}, true},
      {"gated_convolution", "convolution", {{"dim", 6}, {"gate", {{"name", "coordinate_attention"}}}}, true},
      {"dual", "dual_attention", {{"dim", 8}, {"heads", 2}, {"size", 3}}, true},
      {"channels", "dual_attention", {{"dim", 8}, {"heads", 4}, {"size", 3}, {"parts", "channel"}}, true},
      {"large_kernel", "large_kernel_attention", {{"dim", 6}, {"kernel", 5}, {"dilation", 2}}, true},
      {"large_kernel_added",
       "large_kernel_attention",
       {{"dim", 6}, {"kernel", 5}, {"dilation", 2}, {"gate", "sum"}},
       true},
      {"near_kernel_sigmoid",
       "large_kernel_attention",
       {{"dim", 6}, {"kernel", 5}, {"dilation", 2}, {"gate", "sigmoid"}, {"dilated", false}},
       true},
      {"squeeze", "squeeze_excitation", {{"dim", 6}, {"reduction", 2}}, true},
      {"coordinates", "coordinate_attention", {{"dim", 6}}, true},
      {"strips", "efficient_local_attention", {{"dim", 8}, {"kernel", 3}, {"norm_groups", 2}}, true},
      {"strips_of_groups",
       "efficient_local_attention",
       {{"dim", 16}, {"kernel", 5}, {"norm_groups", 4}, {"groups", 2}},
       true},
      {"subspaces", "subspace_attention", {{"dim", 8}, {"groups", 2}}, true},
      {"one_subspace", "subspace_attention", {{"dim", 8}, {"groups", 1}}, true},
      {"mixing", "context_mixing_conv", {{"dim", 16}, {"heads", 2}, {"kernel", 5}}, false},
      {"mixing_of_context", "context_mixing_conv", {{"dim", 16}, {"kernel", 3}, {"context", 4}}, false},
      {"mixing_static", "context_mixing_conv", {{"dim", 16}, {"kernel", 3}, {"dynamic", false}}, false},
      {"spectrum", "spectral_gating", {{"dim", 6}, {"height", 5}, {"width", 7}}, false},
      {"resized_spectrum", "spectral_gating", {{"dim", 6}, {"height", 3}, {"width", 4}}, false},
  };
}

std::vector<Mode> cropping_modes() {
  std::vector<Mode> kept;
  for (auto& mode : modes())
    if (mode.crops) kept.push_back(mode);
  return kept;
}

class ImageModes : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    test::seed_images(31);
    mixer = drawn_image_mixer(GetParam().mixer, GetParam().config);
  }
  int64_t dim() const { return GetParam().config["dim"]; }

  std::shared_ptr<TokenMixer> mixer;
};

/// The first image whole, the second without its last column and a few cells.
Tensor ragged_padding(int64_t height, int64_t width) {
  auto hidden = torch::zeros({2, height, width}, torch::kBool);
  hidden[1].select(1, width - 1).fill_(true);
  hidden[1][0][0] = hidden[1][height - 1][1] = true;
  return hidden.flatten(1);
}

TEST_P(ImageModes, GradientsOverOddGrids) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{5, 7}, {6, 3}, {2, 1}}) {
    auto in = image_input(height, width, dim(), 2);
    in.x.requires_grad_();
    std::vector<Tensor> inputs{in.x};
    for (auto& parameter : mixer->parameters()) inputs.push_back(parameter);
    SCOPED_TRACE(testing::Message() << height << " x " << width);
    test::expect_gradient([&] { return mixer->forward(in); }, inputs);
    if (width == 1) continue;
    in.key_padding = ragged_padding(height, width);
    const auto shown = in.key_padding->logical_not().unsqueeze(2);
    test::expect_gradient([&] { return mixer->forward(in) * shown; }, inputs);
  }
}

TEST_P(ImageModes, PaddedCellsAreNotSeen) {
  torch::NoGradGuard no_grad;
  auto in = image_input(5, 7, dim(), 2);
  in.key_padding = ragged_padding(5, 7);
  const auto hidden = in.key_padding->unsqueeze(2);
  const auto before = mixer->forward(in).masked_fill(hidden, 0);
  EXPECT_TRUE(test::all_finite(before));
  in.x = in.x + torch::randn_like(in.x).masked_fill(hidden.logical_not(), 0) * 5;
  EXPECT_TRUE(torch::equal(mixer->forward(in).masked_fill(hidden, 0), before));
}

class CroppingModes : public ImageModes {};

/// In training as well: batch norms and group norms count cells of the image alone.
TEST_P(CroppingModes, PaddingIsNoPartOfTheImage) {
  torch::NoGradGuard no_grad;
  const auto image = image_input(5, 7, dim(), 2);
  auto padded = image;
  padded.grid = Grid{{9, 8}};
  const auto wide = [](const Tensor& cells, double value) {
    return torch::constant_pad_nd(cells.unflatten(1, {5, 7}), {0, 0, 0, 1, 0, 4}, value).flatten(1, 2);
  };
  padded.x = wide(image.x, 3);
  padded.key_padding = wide(torch::zeros({2, 35, 1}), 1).squeeze(2).to(torch::kBool);
  for (const bool training : {false, true}) {
    mixer->train(training);
    const auto cut = mixer->forward(padded).unflatten(1, {9, 8}).narrow(1, 0, 5).narrow(2, 0, 7).flatten(1, 2);
    EXPECT_LT(relative_error(cut, mixer->forward(image)), test::kDouble) << "training " << training;
  }
}

TEST_P(ImageModes, GridsThatDoNotFitAreNamed) {
  auto in = image_input(5, 7, dim());
  const auto refused = [&](std::optional<Grid> grid) {
    in.grid = std::move(grid);
    EXPECT_THROW(mixer->forward(in), Error);
  };
  refused(std::nullopt);
  refused(Grid{{5, 6}});
  refused(Grid{{-5, -7}});
  refused(Grid{{35}});
  refused(Grid{{5, 7, 1}});
  refused(Grid{{0, 7}});
  in.grid = Grid{{5, 7}};
  in.key_padding = torch::zeros({1, 34}, torch::kBool);
  EXPECT_THROW(mixer->forward(in), Error);
  in.key_padding.reset();
  in.cu_seqlens = torch::tensor({0, 35}, torch::kInt64);
  EXPECT_THROW(mixer->forward(in), Error);
}

INSTANTIATE_TEST_SUITE_P(Mixers, ImageModes, testing::ValuesIn(modes()),
                         [](const auto& info) { return std::string(info.param.label); });
INSTANTIATE_TEST_SUITE_P(Mixers, CroppingModes, testing::ValuesIn(cropping_modes()),
                         [](const auto& info) { return std::string(info.param.label); });

TEST(ImageMixers, BadSettingsAreNamed) {
  const auto refused = [](const char* name, const json& config) {
    EXPECT_THROW(make_mixer(name, config), Error) << name << " " << config;
  };
  for (const char* name : {"bilevel_routing_attention", "multi_axis_attention", "halo_attention",
                           "double_window_attention", "factorization_attention", "aggregated_attention",
                           "dual_attention", "conv_share_attention", "kolmogorov_arnold_attention"}) {
    refused(name, {{"dim", 64}, {"heads", 5}});
    refused(name, {{"dim", 64}, {"heads", 0}});
    refused(name, {{"dim", 64}, {"causal", true}});
  }
  for (const char* name :
       {"large_kernel_attention", "efficient_local_attention", "subspace_attention", "context_mixing_conv",
        "spectral_gating", "convolution", "squeeze_excitation", "coordinate_attention"})
    refused(name, {{"causal", true}});
  refused("bilevel_routing_attention", {{"regions", 0}});
  refused("bilevel_routing_attention", {{"top", 0}});
  refused("multi_axis_attention", {{"size", 0}});
  refused("multi_axis_attention", {{"axes", "rows"}});
  refused("halo_attention", {{"block", 0}});
  refused("halo_attention", {{"halo", -1}});
  refused("double_window_attention", {{"dim", 24}, {"heads", 3}});
  refused("double_window_attention", {{"size", 1}});
  refused("double_window_attention", {{"shift", "none"}});
  refused("convolution", {{"kernel", 4}});
  refused("factorization_attention", {{"reduction", 0}});
  refused("aggregated_attention", {{"reduction", 0}});
  refused("aggregated_attention", {{"reduction", 1}, {"keys", "near"}});
  refused("aggregated_attention", {{"bias", "table"}, {"keys", "near"}});
  refused("dual_attention", {{"parts", "both_"}});
  refused("large_kernel_attention", {{"kernel", 0}});
  refused("large_kernel_attention", {{"gate", "none"}});
  refused("squeeze_excitation", {{"reduction", 0}});
  refused("coordinate_attention", {{"reduction", 0}});
  refused("efficient_local_attention", {{"dim", 24}, {"norm_groups", 5}});
  refused("efficient_local_attention", {{"kernel", 4}});
  refused("subspace_attention", {{"dim", 24}, {"groups", 5}});
  refused("spectral_gating", {{"height", 0}});
  refused("kolmogorov_arnold_attention", {{"frequencies", 0}});
  refused("kolmogorov_arnold_attention", {{"basis", "splines"}});
  refused("kolmogorov_arnold_attention", {{"basis", "spline"}, {"range", 0.0}});
}

/// Windows, regions and kernels larger than the image are cut to it.
TEST(ImageMixers, PartsLargerThanTheImageAreCutToIt) {
  test::seed_images(32);
  torch::NoGradGuard no_grad;
  for (const auto& [name, config] : {std::pair<const char*, json>{"multi_axis_attention", {{"size", 9}}},
                                     {"halo_attention", {{"block", 9}, {"halo", 11}}},
                                     {"double_window_attention", {{"size", 32}}},
                                     {"bilevel_routing_attention", {{"regions", 50}, {"top", 5000}}},
                                     {"factorization_attention", {{"heads", 1}, {"reduction", 9}}},
                                     {"aggregated_attention", {{"reduction", 9}, {"bias_hidden", 4}}},
                                     {"large_kernel_attention", json::object()},
                                     {"efficient_local_attention", {{"kernel", 7}}},
                                     {"convolution", {{"kernel", 7}}},
                                     {"context_mixing_conv", {{"kernel", 17}}}}) {
    auto own = config;
    own["dim"] = 16;
    const auto mixer = drawn_image_mixer(name, own);
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{2, 3}, {1, 1}}) {
      const auto in = image_input(height, width, 16, 2);
      EXPECT_TRUE(test::all_finite(mixer->forward(in))) << name << " " << height << " x " << width;
    }
  }
}

}  // namespace
}  // namespace heed::image_modes_test
