// The card of bi-level routing attention.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/windows.h"
#include "support/image_support.h"

namespace heed::bilevel_routing_test {
namespace {

using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

std::shared_ptr<TokenMixer> mixer_of(int64_t regions, int64_t top, bool local = false) {
  auto mixer = image_mixer("bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", regions}, {"top", top}});
  if (!local) parameter(*mixer, "local.weight").data().zero_();
  return mixer;
}

TEST(BilevelRouting, AllRegionsAreDense) {
  torch::manual_seed(1);
  // 7 rows are regions of 3, 3 and 1 cells.
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{6, 6}, {7, 5}}) {
    const auto in = image_input(height, width, 8, 2);
    const auto mixer = mixer_of(3, 9);
    const auto qkv = torch::linear(in.x, parameter(*mixer, "qkv.weight"), parameter(*mixer, "qkv.bias")).chunk(3, 2);
    AttentionOptions options;
    options.scale = 1 / std::sqrt(8.0);
    const auto heads = attention(split_heads(qkv[0], 2), split_heads(qkv[1], 2), split_heads(qkv[2], 2), options);
    const auto expected =
        torch::linear(join_heads(heads), parameter(*mixer, "o_proj.weight"), parameter(*mixer, "o_proj.bias"));
    EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << height << " " << width;
  }
}

TEST(BilevelRouting, RegionsInAnotherOrder) {
  torch::manual_seed(2);
  const auto in = image_input(6, 6, 8);
  const nn::Windows regions(nn::Windows::Kind::block, 6, 6, 2, 2);
  const auto order = torch::randperm(9);
  const auto shuffle = [&](const Tensor& x) {
    return regions.join(regions.split(x.view({1, 6, 6, 8})).index_select(0, order)).flatten(1, 2);
  };
  const auto mixer = mixer_of(3, 2);
  auto shuffled = in;
  shuffled.x = shuffle(in.x);
  EXPECT_LT(relative_error(mixer->forward(shuffled), shuffle(mixer->forward(in))), kDouble);
}

TEST(BilevelRouting, OrthogonalRegionsChooseThemselves) {
  // q = k = x and regions of their own direction: what is left is attention inside windows.
  torch::manual_seed(3);
  auto in = image_input(4, 4, 8);
  const nn::Windows regions(nn::Windows::Kind::block, 4, 4, 2, 2);
  auto cells = torch::zeros({4, 4, 8}, torch::kFloat64);
  for (int64_t r = 0; r < 4; ++r) cells[r].select(1, 2 * r) = 1 + torch::rand({4}, torch::kFloat64);
  in.x = regions.join(cells).flatten(1, 2);
  const auto mixer = mixer_of(2, 1);
  auto qkv = parameter(*mixer, "qkv.weight").data();
  for (int64_t part = 0; part < 2; ++part) qkv.narrow(0, 8 * part, 8).copy_(torch::eye(8));
  parameter(*mixer, "qkv.bias").data().zero_();
  for (int64_t cell = 0; cell < 16; ++cell) {
    const auto seen = reached(*mixer, in, cell).view({1, 4, 4, 1}).to(torch::kInt64);
    const auto own = torch::zeros({1, 4, 4, 1}, torch::kInt64);
    own[0].narrow(0, cell / 8 * 2, 2).narrow(1, cell % 4 / 2 * 2, 2).fill_(1);
    EXPECT_EQ((seen * (1 - own)).sum().item<int64_t>(), 0) << cell;
  }
}

TEST(BilevelRouting, RegionsNotChosenHaveNoGradient) {
  torch::manual_seed(4);
  auto in = image_input(6, 6, 8);
  in.x.requires_grad_(true);
  const auto mixer = mixer_of(3, 2);
  const auto out = mixer->forward(in).view({1, 6, 6, 8});
  out[0][0][0].sum().backward();
  const nn::Windows regions(nn::Windows::Kind::block, 6, 6, 2, 2);
  const auto touched = regions.split(in.x.grad().view({1, 6, 6, 8})).abs().amax({1, 2}) > 0;
  // The two chosen ones, and the own one, whose query it is.
  EXPECT_LE(touched.sum().item<int64_t>(), 3);
  EXPECT_TRUE(touched[0].item<bool>());
}

TEST(BilevelRouting, SoftRoutingLearns) {
  torch::manual_seed(5);
  auto mixer =
      image_mixer("bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", 2}, {"top", 1}, {"soft", true}});
  const auto hard = image_mixer("bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", 2}, {"top", 1}});
  {
    torch::NoGradGuard no_grad;
    for (const auto& p : mixer->named_parameters()) parameter(*hard, p.key()).copy_(p.value());
  }
  // The softmax of one score is 1.
  const auto in = image_input(4, 5, 8);
  EXPECT_LT(relative_error(mixer->forward(in), hard->forward(in)), kDouble);
}

}  // namespace
}  // namespace heed::bilevel_routing_test
