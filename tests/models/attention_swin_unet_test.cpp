// The card of reused window attention and skips that exchange global tokens.
#include "heed/models/attention_swin_unet.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::attention_swin_unet_test {
namespace {

using test::relative_error;
using torch::Tensor;

Tensor random_rows() { return torch::softmax(torch::randn({3, 2, 7, 7}, torch::kFloat64) * 3, 3); }

TEST(ReusedWeights, RowsStillSumToOne) {
  torch::manual_seed(1);
  const auto own = random_rows(), other = random_rows();
  for (const auto reuse : {AttentionReuse::sum, AttentionReuse::product}) {
    const auto both = reused_weights(own, other, reuse);
    EXPECT_LT(relative_error(both.sum(3), torch::ones({3, 2, 7})), 1e-12);
    EXPECT_GT(relative_error(both, own), 1e-2);
  }
  EXPECT_LT(relative_error(reused_weights(own, torch::zeros_like(own), AttentionReuse::sum), own), 1e-12);
  EXPECT_TRUE(torch::equal(reused_weights(own, other, AttentionReuse::none), own));
}

TransformerConfig block_config() {
  TransformerConfig c;
  c.dim = 12, c.heads = c.kv_heads = 3, c.head_dim = 4, c.hidden = 16;
  c.block = vision_block();
  c.layers.resize(1);
  return c;
}

/// Which cells a cell sees: those of its window, and none from the other end of the image where windows are shifted.
TEST(SwinBlock, SeesItsWindow) {
  torch::NoGradGuard no_grad;
  for (const bool shifted : {false, true}) {
    torch::manual_seed(2);
    SwinBlock block(block_config(), Grid{{8, 8}}, 4, shifted);
    const auto cells = torch::randn({1, 64, 12});
    auto moved = cells.clone();
    moved[0][0].add_(torch::randn({12}));
    const auto change = (block(moved).cells - block(cells).cells).abs().amax({0, 2}).view({8, 8}) > 1e-7;
    auto expected = torch::zeros({8, 8}, torch::kBool);
    const int64_t side = shifted ? 2 : 4;  // the corner of a shifted image is a window of its own
    expected.narrow(0, 0, side).narrow(1, 0, side).fill_(true);
    EXPECT_TRUE(torch::equal(change, expected)) << shifted;
  }
}

TEST(SwinBlock, WeightsOfAnEarlierBlockAreMixedIn) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  SwinBlock first(block_config(), Grid{{5, 6}}, 4, true), second(block_config(), Grid{{5, 6}}, 4, true);
  const auto cells = torch::randn({2, 30, 12});
  const auto earlier = first(cells);
  const auto alone = second(cells);
  EXPECT_TRUE(torch::equal(second(cells, earlier.weights).cells, alone.cells));
  const auto mixed = second(cells, earlier.weights, AttentionReuse::sum);
  EXPECT_GT(relative_error(mixed.cells, alone.cells), 1e-5);
  EXPECT_TRUE(torch::equal(mixed.weights, alone.weights));
  const auto nothing = second(cells, torch::zeros_like(earlier.weights), AttentionReuse::sum);
  EXPECT_LT(relative_error(nothing.cells, alone.cells), 1e-6);
}

CrossSkip skip_of(const CrossSkipConfig& config) {
  torch::manual_seed(4);
  CrossSkip skip(8, config);
  skip->to(torch::kFloat64);
  return skip;
}

TEST(CrossSkip, ClosedExchangesGiveMeans) {
  torch::NoGradGuard no_grad;
  const auto decoder = torch::randn({2, 9, 8}, torch::kFloat64), encoder = torch::randn({2, 9, 8}, torch::kFloat64);
  for (const bool first_cell : {false, true}) {
    auto skip = skip_of({2, 2, 4, first_cell});
    for (auto& entry : skip->named_parameters())
      if (entry.key().ends_with("o_proj.weight")) entry.value().zero_();
    const auto put = [&](const Tensor& cells) {
      const auto mean = cells.mean(1, true);
      return first_cell ? torch::cat({mean, cells.slice(1, 1)}, 1) : cells + mean;
    };
    const auto parameters = skip->named_parameters();
    const auto expected =
        torch::linear(torch::cat({put(decoder), put(encoder)}, 2), parameters["join.weight"], parameters["join.bias"]);
    EXPECT_LT(relative_error(skip(decoder, encoder), expected), 1e-12) << first_cell;
  }
}

TEST(CrossSkip, TheSidesAreAlike) {
  torch::NoGradGuard no_grad;
  auto skip = skip_of({2, 2, 4, false});
  auto parameters = skip->named_parameters();
  for (auto& entry : parameters)
    if (entry.key().starts_with("decoder_")) parameters["en" + entry.key().substr(2)].copy_(entry.value());
  const auto a = torch::randn({2, 9, 8}, torch::kFloat64), b = torch::randn({2, 9, 8}, torch::kFloat64);
  const auto [of_a, of_b] = skip->exchange(a, b);
  const auto [other_b, other_a] = skip->exchange(b, a);
  EXPECT_LT(relative_error(of_a, other_a), 1e-12);
  EXPECT_LT(relative_error(of_b, other_b), 1e-12);
  // The global token hears of every cell of the other side.
  auto moved = b.clone();
  moved.select(1, 8).add_(1);
  EXPECT_GT(relative_error(skip->exchange(a, moved).first, of_a), 1e-6);
  EXPECT_THROW(skip(a, b.slice(1, 1)), Error);
}

}  // namespace
}  // namespace heed::attention_swin_unet_test
