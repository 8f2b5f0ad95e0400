// The card of attention by shared convolutions.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "support/image_support.h"

namespace heed::conv_share_test {
namespace {

using nlohmann::json;
using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::relative_error;
using torch::Tensor;

TEST(ConvShareAttention, KernelsOfAWholeMapAreLinear) {
  torch::manual_seed(1);
  const auto in = image_input(2, 3, 16, 2);
  const auto mixer = image_mixer("conv_share_attention", {{"dim", 16}, {"heads", 2}});
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return torch::linear(x, parameter(*mixer, name + ".weight").flatten(1), parameter(*mixer, name + ".bias"));
  };
  const auto heads = [&](const char* name) { return split_heads(linear(name, in.x), 2); };
  EXPECT_EQ(parameter(*mixer, "q.weight").sizes(), torch::IntArrayRef({16, 1, 4, 4}));
  EXPECT_LT(relative_error(mixer->forward(in), linear("o", join_heads(attention(heads("q"), heads("k"), heads("v"))))),
            kDouble);
}

/// Of no square: the smallest map that holds the channels, behind which zeros lie.
TEST(ConvShareAttention, AnyNumberOfChannelsIsLinear) {
  torch::manual_seed(5);
  for (const int64_t dim : {2, 12, 24, 192}) {
    const auto in = image_input(2, 3, dim, 2);
    for (const bool optical : {false, true}) {
      const auto mixer =
          test::drawn_image_mixer("conv_share_attention", {{"dim", dim}, {"heads", 2}, {"optical", optical}});
      EXPECT_EQ(parameter(*mixer, "q.weight").sizes(), torch::IntArrayRef({dim, dim}));
      const auto heads = [&](const char* name) { return split_heads(test::linear_of(*mixer, name, in.x), 2); };
      const auto wanted = test::linear_of(*mixer, "o", join_heads(attention(heads("q"), heads("k"), heads("v"))));
      EXPECT_LT(relative_error(mixer->forward(in), wanted), kDouble) << dim << " " << optical;
    }
  }
}

TEST(ConvShareAttention, TheFourierPlaneGivesTheSame) {
  torch::manual_seed(2);
  const auto in = image_input(2, 3, 36);
  for (const json& settings : {json{{"kernel", 6}}, json{{"kernel", 5}}, json{{"padding", "same"}, {"kernel", 3}},
                               json{{"padding", "same"}, {"kernel", 5}}}) {
    auto config = settings;
    config.update({{"dim", 36}, {"heads", 3}});
    const auto direct = image_mixer("conv_share_attention", config);
    config["optical"] = true;
    const auto optical = image_mixer("conv_share_attention", config);
    {
      torch::NoGradGuard no_grad;
      for (const auto& p : direct->named_parameters()) parameter(*optical, p.key()).copy_(p.value());
    }
    EXPECT_LT(relative_error(optical->forward(in), direct->forward(in)), kDouble) << settings;
  }
}

/// With a kernel of its own for every token, the gradients of these sum up to that of the one they share.
TEST(ConvShareAttention, GradientsOfAKernelAddUpOverTokens) {
  test::seed_images(3);
  const int64_t tokens = 5, side = 6;
  const auto in = image_input(1, tokens, side * side, 2);
  for (const json& settings : {json{{"kernel", 6}}, json{{"kernel", 5}}, json{{"padding", "same"}, {"kernel", 3}}}) {
    auto config = settings;
    config.update({{"dim", side * side}, {"heads", 3}});
    const auto mixer = test::drawn_image_mixer("conv_share_attention", config);
    std::vector<Tensor> copies;
    const auto apart = [&](const std::string& name, const Tensor& x) {
      const auto weight = parameter(*mixer, name + ".weight").detach(), bias = parameter(*mixer, name + ".bias");
      copies.push_back(weight.unsqueeze(0).repeat({tokens, 1, 1, 1, 1}).requires_grad_());
      const int64_t padding = config.contains("padding") ? 1 : 0;
      const auto maps = torch::conv2d(x.view({2, tokens, side, side}), copies.back().flatten(0, 1),
                                      bias.repeat({tokens}), 1, padding, 1, tokens);
      return maps.reshape({2, tokens, side * side});
    };
    const auto heads = [&](const char* name) { return split_heads(apart(name, in.x), 3); };
    const auto q = heads("q"), k = heads("k"), v = heads("v");
    const auto out = apart("o", join_heads(attention(q, k, v)));
    const auto shared = mixer->forward(in);
    EXPECT_LT(relative_error(out, shared), kDouble) << config;
    const auto weights = torch::randn_like(out);
    const auto own = torch::autograd::grad({(out * weights).sum()}, copies);
    const char* names[] = {"q", "k", "v", "o"};
    for (size_t i = 0; i < 4; ++i) {
      const auto gradient = torch::autograd::grad({(shared * weights).sum()},
                                                  {parameter(*mixer, std::string(names[i]) + ".weight")}, {}, true)[0];
      EXPECT_LT(relative_error(own[i].sum(0), gradient), 1e-9) << names[i] << " " << config;
    }
  }
}

/// A token's map that moves takes what `same` makes of it along; `valid` kernels of a whole map know every cell.
TEST(ConvShareAttention, MapsOfTheSameSizeMoveAlong) {
  test::seed_images(4);
  torch::NoGradGuard no_grad;
  auto map = torch::zeros({1, 1, 8, 8}, torch::kFloat64);
  map.narrow(2, 2, 3).narrow(3, 2, 3).copy_(torch::randn({1, 1, 3, 3}));
  const auto moved = map.roll({1, 1}, {2, 3});
  for (const char* padding : {"same", "valid"}) {
    const auto mixer =
        test::drawn_image_mixer("conv_share_attention", {{"dim", 64}, {"heads", 2}, {"padding", padding}});
    for (const char* name : {"v.bias", "o.bias"}) parameter(*mixer, name).zero_();
    // One token attends to itself: two convolutions remain, which stay away from the border.
    const auto out = [&](const Tensor& x) {
      return mixer->forward({.x = x.flatten(1).unsqueeze(0)}).view({1, 1, 8, 8});
    };
    const double error = relative_error(out(moved), out(map).roll({1, 1}, {2, 3}));
    if (std::string(padding) == "same")
      EXPECT_LT(error, kDouble);
    else
      EXPECT_GT(error, 1e-2);
  }
}

TEST(ConvShareAttention, BadSizesAreNamed) {
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 24}, {"kernel", 4}}), Error);
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 24}, {"padding", "same"}}), Error);
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 16}, {"kernel", 5}}), Error);
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 16}, {"kernel", 2}}), Error);  // 3 x 3 cells of 16 channels
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 16}, {"kernel", 2}, {"padding", "same"}}), Error);
}

}  // namespace
}  // namespace heed::conv_share_test
