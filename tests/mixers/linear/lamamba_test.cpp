// The card of lamamba: an identity at first, dense attention where one window holds all, and what conditions it.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "support/torch_support.h"

namespace heed::lamamba_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr int64_t kDim = 12, kHeads = 3;
constexpr double kRounding = 1e-11;

std::shared_ptr<TokenMixer> in_double(const nlohmann::json& own = nlohmann::json::object()) {
  nlohmann::json config{{"dim", kDim}, {"heads", kHeads}, {"window", 4}, {"shift", "never"}};
  config.update(own);
  torch::manual_seed(11);
  auto mixer = make_mixer("lamamba", config);
  mixer->to(torch::kFloat64);
  return mixer;
}

/// Opens the gate of one part: 0 the scan, 1 the attention, 2 the channel mixer.
void open(TokenMixer& mixer, int64_t part) {
  torch::NoGradGuard no_grad;
  mixer.named_parameters()["modulation.bias"].narrow(0, (3 * part + 2) * kDim, kDim).fill_(1);
}

MixerInput image(int64_t height, int64_t width) {
  MixerInput in;
  in.x = torch::randn({2, height * width, kDim}, torch::kFloat64);
  in.grid = Grid{{height, width}};
  return in;
}

Tensor normed(const Tensor& x) { return torch::layer_norm(x, {kDim}, {}, {}, 1e-6); }

TEST(LaMamba, IsTheIdentityAtFirst) {
  auto mixer = in_double();
  auto in = image(5, 7);
  EXPECT_TRUE(torch::equal(mixer->forward(in), in.x));
  in.memory = torch::randn({2, 2, kDim}, torch::kFloat64);
  EXPECT_TRUE(torch::equal(mixer->forward(in), in.x));
}

/// Attention between cells for which `together` says so, with the table of relative places, written out.
Tensor dense(TokenMixer& mixer, const MixerInput& in, int64_t window,
             const std::function<bool(int64_t, int64_t, int64_t, int64_t)>& together) {
  auto p = mixer.named_parameters();
  const int64_t height = in.grid->sizes[0], width = in.grid->sizes[1], n = height * width, side = 2 * window - 1;
  auto bias = torch::full({kHeads, n, n}, -INFINITY, torch::kFloat64);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const int64_t down = i / width - j / width, right = i % width - j % width;
      if (!together(i / width, i % width, j / width, j % width)) continue;
      bias.select(1, i).select(1, j).copy_(
          p["windows.bias.table"].select(1, (down + window - 1) * side + right + window - 1));
    }
  const auto qkv = (torch::matmul(normed(in.x), p["qkv_proj.weight"].t()) + p["qkv_proj.bias"])
                       .view({2, n, 3, kHeads, kDim / kHeads})
                       .permute({2, 0, 3, 1, 4});
  const auto scores = torch::matmul(qkv[0], qkv[1].transpose(2, 3)) / std::sqrt(double(kDim / kHeads)) + bias;
  const auto out = torch::matmul(torch::softmax(scores, 3), qkv[2]).transpose(1, 2).flatten(2);
  return in.x + torch::matmul(out, p["o_proj.weight"].t()) + p["o_proj.bias"];
}

TEST(LaMamba, AWindowThatHoldsTheGridIsDenseAttention) {
  torch::NoGradGuard no_grad;
  for (const char* shift : {"never", "always"}) {
    auto mixer = in_double({{"window", 6}, {"shift", shift}});
    open(*mixer, 1);
    const auto in = image(5, 6);
    EXPECT_LT(relative_error(mixer->forward(in), dense(*mixer, in, 6, [](auto...) { return true; })), kRounding)
        << shift;
  }
}

// Swin's: the grid is rolled by half a window, cut into windows, and what was rolled over is hidden from the rest.
TEST(LaMamba, ShiftedWindowsAreThoseOfARolledGrid) {
  torch::NoGradGuard no_grad;
  const int64_t window = 4, height = 8, width = 12;
  const auto region = [&](int64_t at, int64_t cells, bool shifted) {
    const int64_t roll = shifted ? window / 2 : 0, rolled = (at - roll + cells) % cells;
    return rolled / window * 2 + (at < roll);
  };
  for (const bool shifted : {false, true}) {
    auto mixer = in_double({{"shift", shifted ? "always" : "never"}});
    open(*mixer, 1);
    const auto in = image(height, width);
    const auto together = [&](int64_t r, int64_t c, int64_t r2, int64_t c2) {
      return region(r, height, shifted) == region(r2, height, shifted) &&
             region(c, width, shifted) == region(c2, width, shifted);
    };
    EXPECT_LT(relative_error(mixer->forward(in), dense(*mixer, in, window, together)), kRounding) << shifted;
  }
}

TEST(LaMamba, EverySecondLayerShiftsItsWindows) {
  torch::NoGradGuard no_grad;
  auto alternate = in_double({{"shift", "alternate"}}), always = in_double({{"shift", "always"}}), never = in_double();
  for (auto* mixer : {&alternate, &always, &never}) open(**mixer, 1);
  auto in = image(8, 8);
  for (const int64_t layer : {0, 1, 2, 3}) {
    in.layer = {layer, 4};
    EXPECT_TRUE(torch::equal(alternate->forward(in), (layer % 2 == 1 ? always : never)->forward(in))) << layer;
  }
  EXPECT_FALSE(torch::equal(always->forward(in), never->forward(in)));
}

TEST(LaMamba, WithoutAttentionItIsABlockOfScans) {
  torch::NoGradGuard no_grad;
  auto mixer = in_double({{"attention", false}});
  open(*mixer, 0);
  auto scan = make_mixer("ss2d", {{"dim", kDim}, {"state_dim", 1}, {"paths", "snake"}, {"conv_bias", false}});
  scan->to(torch::kFloat64);
  auto own = mixer->named_parameters();
  for (auto& entry : scan->named_parameters()) entry.value().copy_(own["scan." + entry.key()]);
  const auto in = image(5, 7);
  auto inner = in;
  inner.x = normed(in.x);
  EXPECT_LT(relative_error(mixer->forward(in), in.x + scan->forward(inner)), kRounding);
  EXPECT_EQ(own.find("qkv_proj.weight"), nullptr);
}

TEST(LaMamba, ConditionsTellAfterOneStep) {
  auto mixer = in_double();
  auto in = image(4, 5);
  in.memory = torch::randn({2, 2, kDim}, torch::kFloat64);
  auto other = in;
  other.memory = torch::randn({2, 2, kDim}, torch::kFloat64);
  const auto target = torch::randn_like(in.x);
  torch::optim::SGD sgd(mixer->parameters(), 1.0);
  (mixer->forward(in) - target).square().mean().backward();
  sgd.step();
  torch::NoGradGuard no_grad;
  EXPECT_GT(relative_error(mixer->forward(other), mixer->forward(in)), 1e-10);
  // The order of the embeddings says nothing: they are summed.
  other.memory = in.memory->flip(1);
  EXPECT_LT(relative_error(mixer->forward(other), mixer->forward(in)), kRounding);
}

// Two layers of windows, the second one shifted, reach a few cells; scans reach all.
TEST(LaMamba, ScansReachWhereWindowsDoNot) {
  for (const bool scan : {false, true}) {
    auto first = in_double({{"window", 3}, {"shift", "alternate"}, {"scan", scan}}),
         second = in_double({{"window", 3}, {"shift", "alternate"}, {"scan", scan}});
    for (auto* mixer : {&first, &second})
      for (const int64_t part : {0, 1, 2}) open(**mixer, part);
    auto in = image(9, 9);
    in.x.requires_grad_();
    auto next = in;
    next.x = first->forward(in);
    next.layer = {1, 2};
    const auto out = second->forward(next);
    const auto grad = torch::autograd::grad({out[0][40].square().sum()}, {in.x})[0][0].abs().amax(1).view({9, 9});
    const int64_t reached = (grad > 0).sum().item<int64_t>();
    if (scan)
      EXPECT_EQ(reached, 81);
    else
      EXPECT_LT(reached, 40);
    EXPECT_GT(grad[4][4].item<double>(), 0);
  }
}

TEST(LaMamba, WrongInputIsNamed) {
  auto mixer = in_double();
  MixerInput in;
  in.x = torch::randn({1, 6, kDim}, torch::kFloat64);
  EXPECT_THROW(mixer->forward(in), Error);
  in.grid = Grid{{2, 3}};
  in.memory = torch::randn({1, 2, kDim + 1}, torch::kFloat64);
  EXPECT_THROW(mixer->forward(in), Error);
  EXPECT_THROW(make_mixer("lamamba", {{"shift", "sometimes"}}), Error);
  EXPECT_THROW(make_mixer("lamamba", {{"dim", 10}, {"heads", 3}}), Error);
}

}  // namespace
}  // namespace heed::lamamba_test
