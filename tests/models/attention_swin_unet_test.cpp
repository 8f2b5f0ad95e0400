// The card of reused window attention and skips that exchange global tokens.
#include "heed/models/attention_swin_unet.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/gradient_check.h"

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

/// A block by the formula: shifted windows of an odd grid, weights of an earlier block in the sum and the product.
TEST(SwinBlock, IsWhatTheFormulaSays) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const int64_t height = 5, width = 7, window = 4;
  for (const bool shifted : {false, true})
    for (const auto reuse : {AttentionReuse::none, AttentionReuse::sum, AttentionReuse::product}) {
      SwinBlock block(block_config(), Grid{{height, width}}, window, shifted);
      for (auto& parameter : block->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
      block->to(torch::kFloat64);
      const auto p = block->named_parameters();
      const auto linear = [&](const std::string& name, const Tensor& t) {
        const auto* bias = p.find(name + ".bias");
        return torch::linear(t, p[name + ".weight"], bias ? *bias : Tensor());
      };
      const auto norm = [&](const std::string& name, const Tensor& t) {
        return torch::layer_norm(t, {12}, p[name + ".weight"], p[name + ".bias"]);
      };
      // Weights of all pairs of cells, as those of a window's: which cells share one, and where they stand in it.
      const auto place = [&](int64_t at) { return (at + window - (shifted ? window / 2 : 0)); };
      const auto together = [&](int64_t i, int64_t j) {
        return place(i / width) / window == place(j / width) / window &&
               place(i % width) / window == place(j % width) / window;
      };
      const auto weights_of = [&](const Tensor& x) {
        const auto parts = linear("qkv", norm("input_norm", x)).chunk(3, 2);
        auto logits = torch::full({1, 3, 35, 35}, -INFINITY, torch::kFloat64);
        for (int64_t i = 0; i < 35; ++i)
          for (int64_t j = 0; j < 35; ++j) {
            if (!together(i, j)) continue;
            const int64_t offset = (i / width - j / width + 3) * 7 + i % width - j % width + 3;
            for (int64_t h = 0; h < 3; ++h)
              logits[0][h][i][j] = (parts[0][0][i].narrow(0, 4 * h, 4) * parts[1][0][j].narrow(0, 4 * h, 4)).sum() / 2 +
                                   p["bias.table"][h][offset];
          }
        return torch::softmax(logits, 3);
      };
      const auto earlier = torch::randn({1, 35, 12}, torch::kFloat64), x = torch::randn({1, 35, 12}, torch::kFloat64);
      auto used = weights_of(x);
      if (reuse == AttentionReuse::sum) used = used + weights_of(earlier);
      if (reuse == AttentionReuse::product) used = used * weights_of(earlier);
      used = used / used.sum(3, true);
      const auto v = linear("qkv", norm("input_norm", x)).chunk(3, 2)[2].view({1, 35, 3, 4}).transpose(1, 2);
      auto y = x + linear("o_proj", torch::matmul(used, v).transpose(1, 2).flatten(2));
      y = y + linear("mlp.down_proj", torch::gelu(linear("mlp.up_proj", norm("mlp_norm", y))));
      EXPECT_LT(relative_error(block(x, block(earlier).weights, reuse).cells, y), 1e-10)
          << shifted << " " << int(reuse);
    }
}

TEST(SwinBlock, GradientsAgreeWithDifferences) {
  torch::manual_seed(7);
  SwinBlock block(block_config(), Grid{{5, 3}}, 2, true);
  block->to(torch::kFloat64);
  for (const auto reuse : {AttentionReuse::sum, AttentionReuse::product}) {
    std::vector<Tensor> inputs{torch::randn({2, 15, 12}, torch::kFloat64).requires_grad_(),
                               torch::randn({2, 15, 12}, torch::kFloat64).requires_grad_()};
    for (auto& parameter : block->parameters()) inputs.push_back(parameter);
    test::expect_gradient([&] { return block(inputs[0], block(inputs[1]).weights, reuse).cells; }, inputs);
  }
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

/// Global tokens by the formula: attention of one query to itself and the other side's cells, added to it.
TEST(CrossSkip, ExchangesAreWhatTheFormulaSays) {
  torch::NoGradGuard no_grad;
  auto skip = skip_of({2, 2, 4, true});
  for (auto& parameter : skip->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  const auto p = skip->named_parameters();
  const auto a = torch::randn({2, 6, 8}, torch::kFloat64), b = torch::randn({2, 6, 8}, torch::kFloat64);
  const auto ask = [&](const std::string& name, const Tensor& global, const Tensor& cells) {
    const auto normed = torch::layer_norm(global, {8}, p[name + "_norm.weight"], p[name + "_norm.bias"]);
    const auto heads = [&](const char* part, const Tensor& t) {
      return torch::matmul(t, p[name + part].t()).unflatten(2, {-1, 4}).transpose(1, 2);
    };
    const auto keys = torch::cat({normed, cells}, 1);
    auto k = heads(".k_proj.weight", keys), v = heads(".v_proj.weight", keys);
    k = k.repeat_interleave(2 / k.size(1), 1), v = v.repeat_interleave(2 / v.size(1), 1);
    const auto weights = torch::softmax(torch::matmul(heads(".q_proj.weight", normed), k.transpose(2, 3)) / 2, 3);
    const auto mixed = torch::matmul(weights, v).transpose(1, 2).flatten(2);
    return global + torch::matmul(mixed, p[name + ".o_proj.weight"].t());
  };
  auto of_a = a.mean(1, true), of_b = b.mean(1, true);
  for (const std::string number : {"0", "1"}) {
    of_a = ask("decoder_" + number, of_a, b);
    of_b = ask("encoder_" + number, of_b, a);
  }
  const auto joined = torch::cat({torch::cat({of_a, a.slice(1, 1)}, 1), torch::cat({of_b, b.slice(1, 1)}, 1)}, 2);
  EXPECT_LT(relative_error(skip(a, b), torch::linear(joined, p["join.weight"], p["join.bias"])), 1e-10);
}

TEST(CrossSkip, GradientsAgreeWithDifferences) {
  for (const bool first_cell : {false, true}) {
    auto skip = skip_of({2, 2, 4, first_cell});
    std::vector<Tensor> inputs{torch::randn({2, 6, 8}, torch::kFloat64).requires_grad_(),
                               torch::randn({2, 6, 8}, torch::kFloat64).requires_grad_()};
    for (auto& parameter : skip->parameters()) inputs.push_back(parameter);
    test::expect_gradient([&] { return skip(inputs[0], inputs[1]); }, inputs);
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
