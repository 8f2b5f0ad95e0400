// The card of token_merging: what merging keeps, what it loses, and proportional attention.
#include <set>

#include "heed/nn/token_reducer.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::token_merging_test {
namespace {

using nn::ReductionInput;
using nn::TokenMap;
using test::relative_error;
using torch::Tensor;

TokenMap reduced(const nlohmann::json& config, const ReductionInput& in) {
  return nn::make_token_reducer("token_merging", config)->map(in);
}

/// Tokens [2, 2 n, C], each twice, side by side or n apart.
Tensor doubled(const Tensor& x, bool side_by_side) {
  return side_by_side ? x.repeat_interleave(2, 1) : torch::cat({x, x}, 1);
}

void expect_conserved(const TokenMap& map, const Tensor& x, const Tensor& sizes) {
  EXPECT_LT(relative_error(map.sizes.sum(1), sizes.sum(1)), 1e-12);
  EXPECT_LT(relative_error((map.reduce(x) * map.sizes.unsqueeze(2)).sum(1), (x * sizes.unsqueeze(2)).sum(1)), 1e-12);
  for (int64_t b = 0; b < x.size(0); ++b) {
    std::set<int64_t> reached;
    for (int64_t i = 0; i < x.size(1); ++i) reached.insert(map.target[b][i].item<int64_t>());
    EXPECT_EQ(int64_t(reached.size()), map.tokens);
    EXPECT_EQ(*reached.begin(), 0);
    EXPECT_EQ(*reached.rbegin(), map.tokens - 1);
  }
}

TEST(TokenMerging, NoLinksAreNoChange) {
  test::seed_torch(1);
  const auto x = torch::randn({2, 11, 6}, torch::kFloat64);
  for (const char* action : {"merge", "drop", "fuse"}) {
    const auto map = reduced({{"count", 0}, {"action", action}}, {.x = x, .scores = torch::rand({2, 11})});
    EXPECT_TRUE(torch::equal(map.reduce(x), x)) << action;
    EXPECT_TRUE(torch::equal(map.restore(x), x));
  }
}

TEST(TokenMerging, TheBestLinksOfEvenTokensMerge) {
  test::seed_torch(2);
  const int64_t n = 13, count = 3;
  const auto x = torch::randn({2, n, 6}, torch::kFloat64), metric = torch::randn({2, n, 4}, torch::kFloat64);
  const auto sizes = torch::randint(1, 5, {2, n}).to(torch::kFloat64);
  const auto map = reduced({{"count", count}}, {.x = x, .metric = metric, .sizes = sizes, .leading = 1});
  ASSERT_EQ(map.tokens, n - count);
  expect_conserved(map, x, sizes);
  for (int64_t b = 0; b < 2; ++b) {
    EXPECT_EQ(map.target[b][0].item<int64_t>(), 0);  // the class token is first, and alone
    EXPECT_EQ(map.sizes[b][0].item<double>(), sizes[b][0].item<double>());
    std::vector<std::tuple<double, int64_t, int64_t>> links;
    for (int64_t a = 2; a < n; a += 2) {
      double best = -2;
      int64_t partner = -1;
      for (int64_t o = 1; o < n; o += 2) {
        const double likeness =
            torch::cosine_similarity(metric[b][a].unsqueeze(0), metric[b][o].unsqueeze(0)).item<double>();
        if (likeness > best) best = likeness, partner = o;
      }
      links.emplace_back(best, a, partner);
    }
    std::sort(links.rbegin(), links.rend());
    for (size_t l = 0; l < links.size(); ++l) {
      const auto& [likeness, a, partner] = links[l];
      EXPECT_EQ(map.target[b][a].item<int64_t>() == map.target[b][partner].item<int64_t>(), l < count) << a;
    }
    // Unmerged even tokens, then odd ones.
    const auto at = map.positions[b];
    int64_t evens = 0;
    while (evens < map.tokens && at[evens].item<int64_t>() % 2 == 0) ++evens;
    EXPECT_EQ(evens, (n + 1) / 2 - count);
    for (int64_t t = evens; t < map.tokens; ++t) EXPECT_EQ(at[t].item<int64_t>(), 2 * (t - evens) + 1);
  }
}

TEST(TokenMerging, TwinsMergedInProportionChangeNothing) {
  test::seed_torch(3);
  torch::NoGradGuard no_grad;
  auto mixer =
      test::drawn_mixer("dense", {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"causal", false}}, torch::kFloat64);
  const auto one = torch::randn({2, 7, 24}, torch::kFloat64);
  for (const bool side_by_side : {true, false}) {
    const auto x = doubled(one, side_by_side);
    const auto map = reduced({{"count", 7}}, {.x = x});
    ASSERT_EQ(map.tokens, 7);
    EXPECT_LT((map.sizes - 2).abs().max().item<double>(), 1e-12);
    EXPECT_LT(relative_error(map.restore(map.reduce(x)), x), 1e-12);
    MixerInput in{.x = map.reduce(x)};
    in.sizes = map.sizes;
    EXPECT_LT(relative_error(map.restore(mixer->forward(in)), mixer->forward({.x = x})), 1e-12);
  }
  // Of tokens that stand for different numbers, proportion matters.
  const auto x = torch::cat({doubled(one, true), torch::randn({2, 2, 24}, torch::kFloat64)}, 1);
  const auto map = reduced({{"count", 7}}, {.x = x});
  MixerInput in{.x = map.reduce(x)};
  EXPECT_GT(relative_error(map.restore(mixer->forward(in)), mixer->forward({.x = x})), 1e-3);
  in.sizes = map.sizes;
  EXPECT_LT(relative_error(map.restore(mixer->forward(in)), mixer->forward({.x = x})), 1e-12);
}

TEST(TokenMerging, NeighboursKeepTheirOrder) {
  test::seed_torch(4);
  const auto x = torch::randn({2, 12, 6}, torch::kFloat64);
  const auto map = reduced({{"count", 4}, {"adjacent", true}}, {.x = x});
  expect_conserved(map, x, torch::ones({2, 12}, torch::kFloat64));
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t < map.tokens; ++t) {
      const auto of = (map.target[b] == t).nonzero().squeeze(1);
      EXPECT_EQ(of[-1].item<int64_t>(), map.positions[b][t].item<int64_t>());  // the later place
      EXPECT_EQ(of[-1].item<int64_t>() - of[0].item<int64_t>(), of.size(0) - 1);
      if (t > 0) {
        EXPECT_GT(map.positions[b][t].item<int64_t>(), map.positions[b][t - 1].item<int64_t>());
      }
    }
}

TEST(TokenMerging, WhatIsWorthLeastIsDroppedOrFused) {
  test::seed_torch(5);
  const int64_t n = 10;
  const auto x = torch::randn({2, n, 6}, torch::kFloat64), scores = torch::rand({2, n});
  const ReductionInput in{.x = x, .scores = scores, .leading = 1};
  const auto dropped = reduced({{"action", "drop"}, {"share", 0.5}}, in),
             fused = reduced({{"action", "fuse"}, {"share", 0.5}}, in);
  ASSERT_EQ(dropped.tokens, 5);  // round(4.5) = 5 of 9 go, half away from zero
  ASSERT_EQ(fused.tokens, 6);
  for (int64_t b = 0; b < 2; ++b) {
    const auto order = std::get<1>(scores[b].slice(0, 1).sort()) + 1;
    const auto kept = std::get<0>(torch::cat({torch::zeros({1}, torch::kInt64), order.slice(0, 5)}).sort());
    EXPECT_TRUE(torch::equal(dropped.positions[b], kept));
    EXPECT_TRUE(torch::equal(dropped.reduce(x)[b], x[b].index_select(0, kept)));
    const auto gone = order.slice(0, 0, 5);
    const auto share = scores[b].index_select(0, gone).to(torch::kFloat64);
    const auto mean = (x[b].index_select(0, gone) * (share / share.sum()).unsqueeze(1)).sum(0);
    EXPECT_LT(relative_error(fused.reduce(x)[b][5], mean), 1e-12);
    EXPECT_EQ(fused.sizes[b][5].item<double>(), 5);
    EXPECT_EQ(dropped.restore(dropped.reduce(x))[b].index_select(0, gone).abs().max().item<double>(), 0);
  }
  EXPECT_THROW(reduced({{"action", "drop"}}, {.x = x}), Error);  // no scores
  const auto a = reduced({{"action", "drop"}, {"score", "random"}}, {.x = x, .seed = 3});
  EXPECT_TRUE(
      torch::equal(a.positions, reduced({{"action", "drop"}, {"score", "random"}}, {.x = x, .seed = 3}).positions));
}

TEST(TokenMerging, PaddingGoesFirstAndWeighsNothing) {
  test::seed_torch(6);
  auto x = torch::randn({2, 12, 6}, torch::kFloat64);
  auto padding = torch::zeros({2, 12}, torch::kBool);
  padding[0].slice(0, 7).fill_(true);
  x.masked_fill_(padding.unsqueeze(2), std::numeric_limits<double>::quiet_NaN());
  for (const char* action : {"merge", "drop", "fuse"}) {
    const auto map =
        reduced({{"count", 3}, {"action", action}}, {.x = x, .scores = torch::rand({2, 12}), .padding = padding});
    const auto y = map.reduce(x).masked_fill(map.hidden.unsqueeze(2), 0);
    EXPECT_TRUE(test::all_finite(y)) << action;
    // All seven real tokens of item 0 are left: five places of padding were there to go.
    EXPECT_LT((map.reduce(x.nan_to_num(0)) -
               map.reduce(torch::where(padding.unsqueeze(2), torch::full({}, 9.0, torch::kFloat64), x)))
                  .masked_fill(map.hidden.unsqueeze(2), 0)
                  .abs()
                  .max()
                  .item<double>(),
              1e-12);
    EXPECT_EQ(map.sizes[0].sum().item<double>(), 7) << action;
  }
}

TEST(TokenMerging, MapsFollowEachOther) {
  test::seed_torch(7);
  const auto x = torch::randn({2, 20, 6}, torch::kFloat64);
  const auto first = reduced({{"count", 5}}, {.x = x});
  const auto y = first.reduce(x);
  const auto second = reduced({{"count", 6}}, {.x = y, .sizes = first.sizes});
  const auto both = first.then(second);
  EXPECT_LT(relative_error(both.reduce(x), second.reduce(y)), 1e-12);
  EXPECT_TRUE(torch::equal(both.restore(second.reduce(y)), first.restore(second.restore(second.reduce(y)))));
  expect_conserved(both, x, torch::ones({2, 20}, torch::kFloat64));
}

TEST(TokenMerging, MoreThanThereAreIsWhatThereIs) {
  test::seed_torch(9);
  const auto x = torch::randn({2, 9, 4}, torch::kFloat64), scores = torch::rand({2, 9});
  const auto merged = reduced({{"count", 1000}}, {.x = x, .leading = 1});
  EXPECT_EQ(merged.tokens, 5);  // half of the eight that may merge
  expect_conserved(merged, x, torch::ones({2, 9}, torch::kFloat64));
  const auto dropped = reduced({{"count", 1000}, {"action", "drop"}}, {.x = x, .scores = scores, .leading = 1});
  EXPECT_EQ(dropped.tokens, 1);  // the leading one
  EXPECT_TRUE(torch::equal(dropped.reduce(x), x.slice(1, 0, 1)));
  const auto fused = reduced({{"share", 1.0}, {"action", "fuse"}}, {.x = x, .scores = scores, .leading = 1});
  EXPECT_EQ(fused.tokens, 2);
  EXPECT_EQ(fused.sizes.sum().item<double>(), 18);
  for (const int64_t tokens : {0, 1}) {
    const auto few = torch::randn({2, tokens, 4}, torch::kFloat64);
    EXPECT_TRUE(torch::equal(reduced({{"count", 3}}, {.x = few}).reduce(few), few)) << tokens;
  }
}

TEST(TokenMerging, CountsFallFromTwiceToNone) {
  const auto x = torch::randn({1, 64, 4});
  for (const auto& [layer, left] : {std::pair<int64_t, int64_t>{0, 48}, {2, 56}, {4, 64}})
    EXPECT_EQ(reduced({{"count", 8}, {"decreasing", true}}, {.x = x, .layer = layer, .layers = 5}).tokens, left);
}

TEST(TokenMerging, BadInputIsNamed) {
  EXPECT_THROW(nn::make_token_reducer("token_mergin", {}), Error);
  EXPECT_THROW(nn::make_token_reducer("token_merging", {{"action", "melt"}}), Error);
  EXPECT_THROW(nn::make_token_reducer("token_merging", {{"share", 2.0}}), Error);
  EXPECT_THROW(nn::make_token_reducer("token_merging", {{"adjacent", true}, {"action", "drop"}}), Error);
  const auto x = torch::randn({2, 5, 4});
  EXPECT_THROW(reduced({}, {.x = x, .sizes = torch::ones({2, 4})}), Error);
  EXPECT_THROW(reduced({}, {.x = x, .leading = 6}), Error);
  EXPECT_THROW(reduced({{"count", 1}}, {.x = x}).reduce(torch::randn({2, 4, 4})), Error);
}

TEST(PackedTokens, AreTheRaggedBatchInOneRow) {
  test::seed_torch(8);
  const auto x = torch::randn({3, 5, 2});
  auto hidden = torch::zeros({3, 5}, torch::kBool);
  hidden[0].slice(0, 2).fill_(true);
  hidden[1].fill_(true);
  const auto packed = nn::pack_tokens(x, hidden);
  EXPECT_TRUE(torch::equal(packed.cu_seqlens, torch::tensor({0, 2, 2, 7}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(nn::unpack_tokens(packed.x, hidden), x.masked_fill(hidden.unsqueeze(2), 0)));
}

}  // namespace
}  // namespace heed::token_merging_test
