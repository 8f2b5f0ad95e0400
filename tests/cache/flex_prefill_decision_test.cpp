// FlexPrefill's choice for each head between blocks and lines, and what is read at least.
#include <cmath>

#include "cache/prompt_attention.h"

namespace heed::cache::flex_prefill_decision_test {
namespace {

using testing::feed;
using testing::one_layer;
using testing::Prompt;
using torch::Tensor;

struct Settings {
  double mass = 0.9, threshold = 0.1;  // the card's
  int64_t block = 128, least = 0;

  nlohmann::json json() const { return {{"mass", mass}, {"threshold", threshold}, {"block", block}, {"least", least}}; }
};

/// One head's rows [first, N) of a prompt.
struct Head {
  Tensor q, k, v;  // double [n, D], [N, D], [N, D]
  Tensor weights;  // double [n, N]

  /// Of one sequence; a KV head of its own for every query head.
  static std::vector<Head> of(const Prompt& prompt, int64_t first) {
    const auto weights = prompt.weights(first)[0];
    std::vector<Head> heads;
    for (int64_t h = 0; h < weights.size(0); ++h) {
      const auto wide = [&](const Tensor& x) { return x[0][h].to(torch::kFloat64); };
      heads.push_back({wide(prompt.q).slice(0, first), wide(prompt.k), wide(prompt.v), weights[h]});
    }
    return heads;
  }
  int64_t first() const { return k.size(0) - q.size(0); }

  /// Means of blocks of rows; the last may be short.
  static Tensor means(const Tensor& x, int64_t block) {
    std::vector<Tensor> parts;
    for (const auto& part : x.split(block)) parts.push_back(part.mean(0));
    return torch::stack(parts);
  }
  Tensor pooled(const Tensor& query, int64_t block) const { return means(k, block).matmul(query) / 4; }

  /// The card's D: root of the Jensen-Shannon divergence between what the last block of queries reads of each block of
  /// keys and the softmax of the products of their means.
  double distance(int64_t block) const {
    const int64_t rows = std::min(block, q.size(0));
    const auto last = weights.slice(0, q.size(0) - rows).sum(0) / double(rows);
    std::vector<Tensor> sums;
    for (const auto& part : last.split(block)) sums.push_back(part.sum());
    const auto seen = torch::stack(sums);
    const auto guess = pooled(q.slice(0, q.size(0) - rows).mean(0), block).softmax(0);
    double divergence = 0;
    for (int64_t b = 0; b < seen.size(0); ++b) {
      const double p = guess[b].item<double>(), t = seen[b].item<double>(), middle = (p + t) / 2;
      if (p > 0) divergence += p * std::log(p / middle) / 2;
      if (t > 0) divergence += t * std::log(t / middle) / 2;
    }
    return std::sqrt(divergence);
  }

  /// The causal pairs that a mode reads, bool [n, N].
  Tensor mask(const Settings& s, bool by_blocks) const;
};

/// The fewest largest entries that hold a share of the sum, `least` of them at least: bool.
Tensor fewest(const Tensor& weights, double share, int64_t least) {
  const auto order = weights.argsort(0, true), sorted = weights.index({order});
  const auto wanted = (sorted.cumsum(0) - sorted < share * weights.sum()) | (torch::arange(order.size(0)) < least);
  return torch::zeros_like(weights, torch::kBool).index_fill_(0, order.index({wanted}), true);
}

Tensor Head::mask(const Settings& s, bool by_blocks) const {
  const int64_t n = q.size(0), m = k.size(0), key_blocks = (m + s.block - 1) / s.block,
                query_blocks = (n + s.block - 1) / s.block;
  const auto rows = torch::arange(first(), m).unsqueeze(1), keys = torch::arange(m);
  const auto causal = keys <= rows;
  Tensor wanted;
  if (by_blocks) {
    std::vector<Tensor> weights;
    for (int64_t b = 0; b < query_blocks; ++b) {
      const int64_t newest = first() + std::min((b + 1) * s.block, n) - 1;
      const auto scores = pooled(q.slice(0, b * s.block, (b + 1) * s.block).mean(0), s.block);
      weights.push_back(scores.masked_fill(torch::arange(key_blocks) > newest / s.block, -INFINITY).softmax(0));
    }
    const int64_t least = (s.least + s.block - 1) / s.block * query_blocks;
    wanted = fewest(torch::cat(weights), s.mass, least)
                 .view({query_blocks, key_blocks})
                 .repeat_interleave(s.block, 0)
                 .repeat_interleave(s.block, 1)
                 .slice(0, 0, n)
                 .slice(1, 0, m);
  } else {
    const auto last = weights.slice(0, std::max<int64_t>(0, n - s.block));
    const auto distance = (rows - keys).clamp_min(0);
    auto diagonals = torch::zeros({m}, torch::kFloat64);
    diagonals.index_add_(0, distance.slice(0, n - last.size(0)).flatten(), last.flatten());
    wanted = fewest(last.sum(0), s.mass, s.least).unsqueeze(0) | fewest(diagonals, s.mass, s.least).index({distance});
  }
  // Rounded up to blocks, with the first column of blocks and the diagonal.
  wanted = (wanted | (keys == rows) | (keys == 0)) & causal;
  for (const auto& of_rows : wanted.split(s.block))
    for (const auto& tile : of_rows.split(s.block, 1))
      if (tile.any().item<bool>()) Tensor(tile).fill_(true);
  return wanted & causal;
}

/// Of the output of head h against its rows under a mask.
double error_of(const Tensor& got, int64_t h, const Head& head, const Tensor& mask) {
  const auto weights = head.weights.masked_fill(~mask, 0);
  const auto want = (weights / weights.sum(1, true)).matmul(head.v);
  return (got[0][h].to(torch::kFloat64) - want).abs().max().item<double>();
}

/// Queries that share a direction and keys that follow it equally within a block of 128, but for two of every third
/// block, which follow it by `needle` more, so that means of keys hide them.
Prompt needles_in_blocks(int64_t length, const std::vector<double>& needle, uint64_t seed) {
  Prompt prompt(1, int64_t(needle.size()), int64_t(needle.size()), length, seed);
  const auto direction = torch::zeros({16}).index_fill_(0, torch::tensor({3}), 1.0);
  prompt.q = 0.1 * prompt.q + 4 * direction;  // scaled by 1 / 4: a key's part along it is its logit
  for (size_t h = 0; h < needle.size(); ++h) {
    auto k = prompt.k[0][int64_t(h)];
    const auto along = (1.5 * torch::randn({(length + 127) / 128})).repeat_interleave(128).slice(0, 0, length).clone();
    for (int64_t b = 0; b < length / 128; b += 3) along.slice(0, 128 * b + 17, 128 * b + 19).add_(needle[h]);
    k.copy_(0.1 * k + along.unsqueeze(1) * direction);
  }
  return prompt;
}

// At the card's settings of the decision: tau = 0.1, gamma = 0.9, blocks of 128.
TEST(FlexPrefill, HeadsWhoseMeansTellTheirMassReadBlocksAndTheOthersLines) {
  const Settings settings;
  const std::vector<double> needle{0, 0, 1, 2, 3, 4, 5, 6};
  const int64_t length = 9 * 128 + 45;
  const auto prompt = needles_in_blocks(length, needle, 101);
  for (const int64_t first : {0, 3 * 128 + 50}) {
    auto cache = one_layer("flex_prefill", settings.json(), int64_t(needle.size()));
    if (first > 0) feed(*cache, prompt, 0, first);
    const auto before = cache->reads().prompt_pairs;
    const auto got = feed(*cache, prompt, first, length);
    const auto heads = Head::of(prompt, first);
    int64_t by_blocks = 0, pairs = 0;
    for (int64_t h = 0; h < int64_t(needle.size()); ++h) {
      const auto& head = heads[size_t(h)];
      const double distance = head.distance(settings.block);
      ASSERT_GT(std::abs(distance - settings.threshold), 1e-3) << "too near to tell, head " << h;
      const bool blocks = distance < settings.threshold;
      const auto mask = head.mask(settings, blocks);
      EXPECT_LE(error_of(got, h, head, mask), 1e-5) << "head " << h << ", distance " << distance;
      EXPECT_GT(error_of(got, h, head, head.mask(settings, !blocks)), 1e-3) << "the modes differ, head " << h;
      by_blocks += blocks, pairs += mask.sum().item<int64_t>();
    }
    EXPECT_GE(by_blocks, 2);
    EXPECT_LE(by_blocks, int64_t(needle.size()) - 2);
    EXPECT_EQ(cache->reads().prompt_pairs - before, pairs);
  }
}

TEST(FlexPrefill, TheDecisionTurnsAtTheRootOfTheJensenShannonDivergence) {
  // Chunks that end in a short block, one of fewer queries than a block.
  int64_t checked = 0;
  for (const int64_t rows : {237, 101, 10})
    for (uint64_t seed = 110; seed < 113; ++seed) {
      const int64_t length = 237, first = length - rows;
      const Prompt prompt(1, 1, 1, length, seed);
      const auto head = Head::of(prompt, first)[0];
      Settings s{.mass = 0.3, .threshold = head.distance(16), .block = 16};
      const auto of_blocks = head.mask(s, true), of_lines = head.mask(s, false);
      if (of_blocks.equal(of_lines)) continue;
      ++checked;
      for (const bool blocks : {true, false}) {
        auto near = s;
        near.threshold *= blocks ? 1 + 1e-4 : 1 - 1e-4;
        auto cache = one_layer("flex_prefill", near.json(), 1);
        if (first > 0) feed(*cache, prompt, 0, first);
        const auto got = feed(*cache, prompt, first, length);
        EXPECT_LE(error_of(got, 0, head, blocks ? of_blocks : of_lines), 1e-5)
            << rows << " rows, seed " << seed << ", " << (blocks ? "blocks" : "lines");
      }
    }
  EXPECT_GE(checked, 6);
}

TEST(FlexPrefill, ReadsAtLeastItsBudgetOfColumnsAndDistancesOrOfBlocks) {
  // Of next to no mass one column, one distance or one block would do.
  const auto prompt = needles_in_blocks(9 * 128 + 45, {6, 4}, 102);
  const auto heads = Head::of(prompt, 0);
  for (const bool blocks : {true, false}) {
    int64_t before = 0;
    for (const int64_t least : {0, 16, 100, 512}) {
      const Settings s{.mass = 1e-3, .threshold = blocks ? 1.0 : 0.0, .block = 64, .least = least};
      auto cache = one_layer("flex_prefill", s.json(), 2);
      const auto got = feed(*cache, prompt, 0, prompt.q.size(2));
      int64_t pairs = 0;
      for (int64_t h = 0; h < 2; ++h) {
        const auto& head = heads[size_t(h)];
        const auto mask = head.mask(s, blocks);
        EXPECT_LE(error_of(got, h, head, mask), 1e-5) << (blocks ? "blocks, " : "lines, ") << least;
        pairs += mask.sum().item<int64_t>();
      }
      EXPECT_EQ(cache->reads().prompt_pairs, pairs) << (blocks ? "blocks, " : "lines, ") << least;
      EXPECT_GE(pairs, before);
      before = pairs;
    }
  }
}

TEST(FlexPrefill, PromptsOfTwoBlocksOrOfTheBudgetAreReadWhole) {
  const auto share = [](const nlohmann::json& settings, int64_t length) {
    const Prompt prompt(1, 2, 1, length, 103);
    auto cache = one_layer("flex_prefill", settings, 2);
    feed(*cache, prompt, 0, length);
    return double(cache->reads().prompt_pairs) / double(cache->reads().prompt_visible);
  };
  const nlohmann::json two_blocks{{"mass", 1e-3}, {"block", 50}, {"least", 0}, {"threshold", 1}};
  EXPECT_EQ(share(two_blocks, 100), 1);
  EXPECT_LT(share(two_blocks, 101), 1);
  const nlohmann::json budget{{"mass", 1e-3}, {"block", 16}, {"least", 200}, {"threshold", 0}};
  EXPECT_EQ(share(budget, 200), 1);
  EXPECT_EQ(share({{"mass", 1e-3}}, 512), 1) << "blocks of 128 and a budget of 512 unless said otherwise";
  EXPECT_LT(share({{"mass", 1e-3}, {"threshold", 1}}, 1500), 1);
}

}  // namespace
}  // namespace heed::cache::flex_prefill_decision_test
