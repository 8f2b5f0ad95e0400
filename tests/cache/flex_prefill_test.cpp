#include "cache/flex_prefill.h"

#include "cache/prompt_attention.h"

namespace heed::cache::flex_prefill_test {
namespace {

using testing::expect_same;
using testing::feed;
using testing::one_layer;
using testing::Prompt;
using torch::Tensor;

constexpr int64_t kBlock = 16;

nlohmann::json settings(double mass, double threshold) {
  return {{"mass", mass}, {"threshold", threshold}, {"block", kBlock}, {"least", 0}};
}

/// The fewest largest entries of a vector that hold `share` of its sum: bool.
Tensor fewest(const Tensor& weights, double share) {
  const auto order = weights.argsort(0, true);
  const auto before = weights.index({order}).cumsum(0) - weights.index({order});
  const auto taken = order.index({before < share * weights.sum().item<double>()});
  return torch::zeros_like(weights, torch::kBool).index_fill_(0, taken, true);
}

/// Blocks that `cells` [n, M] touch, with block 0 and a row's own blocks, as a mask of the causal pairs.
Tensor whole_blocks(const Tensor& cells, int64_t first) {
  const int64_t n = cells.size(0), m = cells.size(1);
  auto mask = torch::zeros({n, m}, torch::kBool);
  const auto causal = Prompt::causal(n, first);
  const auto own = torch::arange(first, m).unsqueeze(1) == torch::arange(m);
  const auto marked = (cells & causal) | own | (torch::arange(m) < 1);
  for (int64_t i = 0; i < n; i += kBlock)
    for (int64_t j = 0; j < m; j += kBlock) {
      const auto tile = [&](const Tensor& x) { return x.slice(0, i, i + kBlock).slice(1, j, j + kBlock); };
      if (tile(marked).any().item<bool>()) tile(mask).fill_(true);
    }
  return mask & causal;
}

/// Both modes by the definition, for rows [first, N) of one head: q, k double [n|M, D], last weights [last, M].
Tensor definition(const Tensor& q, const Tensor& k, const Tensor& last, double mass, bool by_blocks) {
  const int64_t n = q.size(0), m = k.size(0), first = m - n;
  const auto distance = torch::arange(first, m).unsqueeze(1) - torch::arange(m);
  auto cells = torch::zeros({n, m}, torch::kBool);
  if (!by_blocks) {
    auto diagonals = torch::zeros({m}, torch::kFloat64);
    const auto of_last = distance.slice(0, n - last.size(0)).clamp_min(0);
    for (int64_t i = 0; i < last.size(0); ++i) diagonals.index_add_(0, of_last[i], last[i]);
    cells = fewest(last.sum(0), mass).unsqueeze(0) | fewest(diagonals, mass).index({distance.clamp_min(0)});
    return whole_blocks(cells, first);
  }
  std::vector<Tensor> rows;
  const int64_t key_blocks = (m + kBlock - 1) / kBlock;
  for (int64_t i = 0; i < n; i += kBlock) {
    auto scores = torch::full({key_blocks}, -INFINITY, torch::kFloat64);
    const int64_t newest = first + std::min(i + kBlock, n) - 1;
    for (int64_t j = 0; j <= newest / kBlock; ++j)
      scores[j] = q.slice(0, i, i + kBlock).mean(0).dot(k.slice(0, kBlock * j, kBlock * (j + 1)).mean(0)) / 4;
    rows.push_back(torch::softmax(scores, 0));
  }
  const auto chosen = fewest(torch::cat(rows), mass).view({int64_t(rows.size()), key_blocks});
  cells = chosen.repeat_interleave(kBlock, 0).repeat_interleave(kBlock, 1).slice(0, 0, n).slice(1, 0, m);
  return whole_blocks(cells, first);
}

TEST(FlexPrefill, IsAttentionUnderTheMaskOfItsMode) {
  const int64_t n = 237;
  for (const bool by_blocks : {false, true})  // no distance is below 0; all are below 1
    for (const int64_t kv_heads : {1, 4})
      for (const int64_t cut : {0, 101}) {
        // Few lines of noise touch every block.
        const double mass = by_blocks ? 0.6 : 0.02;
        const Prompt prompt(3, 4, kv_heads, n, 31);
        auto cache = one_layer("flex_prefill", settings(mass, by_blocks ? 1 : 0), 4);
        if (cut > 0) feed(*cache, prompt, 0, cut);
        const auto before = cache->reads().prompt_pairs;
        const auto got = feed(*cache, prompt, cut, n);
        const auto last = prompt.weights(n - kBlock);
        auto mask = torch::zeros({3, 4, n - cut, n}, torch::kBool);
        for (int64_t b = 0; b < 3; ++b)
          for (int64_t h = 0; h < 4; ++h)
            mask[b][h] = definition(prompt.q[b][h].slice(0, cut).to(torch::kFloat64),
                                    prompt.k[b][h * kv_heads / 4].to(torch::kFloat64), last[b][h], mass, by_blocks);
        expect_same(got, prompt.masked(cut, mask));
        EXPECT_EQ(cache->reads().prompt_pairs - before, mask.sum().item<int64_t>());
        EXPECT_LT(cache->reads().prompt_pairs, cache->reads().prompt_visible);
      }
}

TEST(FlexPrefill, ReadsMoreForMoreMass) {
  const Prompt prompt(1, 4, 2, 300, 32);
  for (const double threshold : {0.0, 1.0}) {
    int64_t before = 0, visible = 0;
    for (const double mass : {0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0}) {
      auto cache = one_layer("flex_prefill", settings(mass, threshold), 4);
      feed(*cache, prompt, 0, 300);
      EXPECT_GE(cache->reads().prompt_pairs, before) << mass;
      before = cache->reads().prompt_pairs, visible = cache->reads().prompt_visible;
    }
    EXPECT_EQ(before, visible);
  }
}

TEST(FlexPrefill, UniformAttentionTakesTheFirstRowsOfBlocks) {
  const int64_t n = 40 * kBlock;
  Prompt prompt(1, 2, 2, n, 33);
  prompt.q.zero_();
  const double mass = 0.5;
  auto cache = one_layer("flex_prefill", settings(mass, 0.1), 2);
  feed(*cache, prompt, 0, n);
  // Row r of 40 has r + 1 equal weights: largest are those of the first rows, mass of them, which are whole; later rows
  // have block 0 and their own.
  const auto rows = static_cast<int64_t>(mass * 40);
  const int64_t tile = kBlock * kBlock, half = kBlock * (kBlock + 1) / 2;
  const int64_t pairs = rows * (rows - 1) / 2 * tile + (40 - rows) * tile + 40 * half;
  EXPECT_EQ(cache->reads().prompt_pairs, 2 * pairs);
}

TEST(JensenShannonDistance, IsSymmetricAndBounded) {
  torch::manual_seed(34);
  const auto p = torch::softmax(3 * torch::randn({50, 20}, torch::kFloat64), 1);
  const auto q = torch::softmax(3 * torch::randn({50, 20}, torch::kFloat64), 1);
  const auto distance = jensen_shannon_distance(p, q);
  EXPECT_TRUE(torch::allclose(distance, jensen_shannon_distance(q, p)));
  EXPECT_TRUE(((distance > 0) & (distance < std::sqrt(std::log(2.0)))).all().item<bool>());
  EXPECT_EQ(jensen_shannon_distance(p, p).max().item<double>(), 0);
  const auto here = torch::tensor({1.0, 0.0}, torch::kFloat64), there = torch::tensor({0.0, 1.0}, torch::kFloat64);
  EXPECT_NEAR(jensen_shannon_distance(here, there).item<double>(), std::sqrt(std::log(2.0)), 1e-15);
}

}  // namespace
}  // namespace heed::cache::flex_prefill_test
