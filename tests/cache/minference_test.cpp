#include "cache/prompt_attention.h"

namespace heed::cache::minference_test {
namespace {

using testing::expect_same;
using testing::feed;
using testing::one_layer;
using testing::Prompt;
using torch::Tensor;

constexpr int64_t kBlock = 64, kLast = 64;

/// The k largest entries of the last dimension and the first `forced`, which count in k: bool.
Tensor largest(const Tensor& sums, int64_t k, int64_t forced) {
  auto raised = sums.clone();
  raised.slice(-1, 0, forced).fill_(INFINITY);
  const auto order = raised.argsort(-1, true).slice(-1, 0, k);
  return torch::zeros_like(sums, torch::kBool).scatter_(-1, order, true);
}

/// Tiles of which a pair is marked become whole: bool [B, H, n, M].
Tensor whole_tiles(const Tensor& marked) {
  auto whole = torch::zeros_like(marked);
  for (int64_t i = 0; i < marked.size(2); i += kBlock)
    for (int64_t j = 0; j < marked.size(3); j += kBlock) {
      const auto tile = [&](const Tensor& x) { return x.slice(2, i, i + kBlock).slice(3, j, j + kBlock); };
      tile(whole).logical_or_(tile(marked).flatten(2).any(2).unsqueeze(2).unsqueeze(3));
    }
  return whole;
}

/// Vertical-slash by the definition, for rows [first, N).
Tensor lines_mask(const Prompt& prompt, int64_t first, int64_t columns, int64_t diagonals) {
  const int64_t m = prompt.q.size(2), n = m - first;
  const auto last = prompt.weights(std::max(first, m - kLast));
  const auto distance = torch::arange(first, m).unsqueeze(1) - torch::arange(m);  // [n, M]
  const auto of_last = distance.slice(0, n - last.size(2)).clamp_min(0).expand(last.sizes()).contiguous();
  auto sums = torch::zeros({last.size(0), last.size(1), m}, torch::kFloat64);
  for (int64_t i = 0; i < last.size(2); ++i) sums.scatter_add_(2, of_last.select(2, i), last.select(2, i));
  const auto chosen = largest(sums, diagonals, std::min<int64_t>(100, diagonals));
  const auto causal = Prompt::causal(n, first);
  const auto slashes = chosen.index_select(2, distance.clamp_min(0).flatten()).unflatten(2, {n, m}) & causal;
  const auto verticals = largest(last.sum(2), columns, std::min<int64_t>(30, columns)).unsqueeze(2);
  return (whole_tiles(slashes) | verticals) & causal;
}

TEST(MInference, VerticalSlashIsAttentionUnderItsMask) {
  const int64_t n = 461, columns = 40, diagonals = 102;
  for (const int64_t kv_heads : {1, 4})
    for (const int64_t batch : {1, 3})
      for (const int64_t cut : {0, 211}) {
        const Prompt prompt(batch, 4, kv_heads, n, 21);
        auto cache = one_layer("minference", {{"columns", columns}, {"diagonals", diagonals}}, 4);
        if (cut > 0) feed(*cache, prompt, 0, cut);
        const auto before = cache->reads().prompt_pairs;
        const auto got = feed(*cache, prompt, cut, n);
        const auto mask = lines_mask(prompt, cut, columns, diagonals);
        expect_same(got, prompt.masked(cut, mask));
        EXPECT_EQ(cache->reads().prompt_pairs - before, mask.sum().item<int64_t>());
        EXPECT_LT(cache->reads().prompt_pairs, cache->reads().prompt_visible);
        EXPECT_TRUE(mask.diagonal(cut, 2, 3).all().item<bool>());
      }
}

TEST(MInference, ShortChunksTakeAllTheirQueries) {
  const Prompt prompt(1, 2, 2, 330, 22);
  auto cache = one_layer("minference", {{"columns", 31}, {"diagonals", 3}}, 2);
  feed(*cache, prompt, 0, 313);
  expect_same(feed(*cache, prompt, 313, 330), prompt.masked(313, lines_mask(prompt, 313, 31, 3)));
}

TEST(MInference, HeadsHaveTheirOwnPatterns) {
  const Prompt prompt(2, 4, 2, 301, 23);
  const auto heads = nlohmann::json::parse(R"([[{"columns": 301}, {"diagonals": 301, "columns": 0},
    {"pattern": "a_shape", "sinks": 5, "window": 50}, {"pattern": "block_sparse", "blocks": 2}]])");
  auto cache = one_layer("minference", {{"columns", 20}, {"diagonals", 20}, {"heads", heads}}, 4);
  const auto got = feed(*cache, prompt, 0, 301);
  const auto causal = Prompt::causal(301, 0).expand({2, 4, -1, -1});
  const auto head = [](const Tensor& x, int64_t h) { return x.narrow(1, h, 1); };
  const auto full = prompt.masked(0, causal);
  expect_same(head(got, 0), head(full, 0));
  expect_same(head(got, 1), head(full, 1));
  const auto distance = torch::arange(301).unsqueeze(1) - torch::arange(301);
  const auto a_shape = causal & ((distance < 50) | (torch::arange(301) < 5));
  expect_same(head(got, 2), head(prompt.masked(0, a_shape), 2));

  auto blocks = torch::zeros({2, 5, 5}, torch::kBool);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 5; ++i) {
      const auto pooled = [](const Tensor& x, int64_t block) {
        return x.slice(0, 64 * block, 64 * (block + 1)).to(torch::kFloat64).mean(0);
      };
      std::vector<std::pair<double, int64_t>> scores;
      for (int64_t j = 0; j <= i; ++j)
        scores.push_back({-pooled(prompt.q[b][3], i).dot(pooled(prompt.k[b][1], j)).item<double>(), j});
      std::sort(scores.begin(), scores.end());
      blocks[b][i][i] = true;
      for (size_t j = 0; j < std::min<size_t>(2, scores.size()); ++j) blocks[b][i][scores[j].second] = true;
    }
  const auto mask = blocks.repeat_interleave(64, 1).repeat_interleave(64, 2).slice(1, 0, 301).slice(2, 0, 301);
  expect_same(head(got, 3), head(prompt.masked(0, causal & mask.unsqueeze(1)), 3));
}

TEST(MInference, AShapeIsStreamingAtAbsolutePositions) {
  const Prompt prompt(1, 4, 2, 200, 24);
  auto a_shape = one_layer("minference", {{"pattern", "a_shape"}, {"sinks", 7}, {"window", 33}}, 4);
  auto streaming = one_layer("streaming_llm", {{"positions", "absolute"}, {"sinks", 7}, {"window", 33}}, 4);
  const auto got = feed(*a_shape, prompt, 0, 200);
  expect_same(got, feed(*streaming, prompt, 0, 200).to(torch::kFloat64));
}

TEST(MInference, TablesThatDoNotFitAreRefused) {
  EXPECT_THROW(one_layer("minference", {{"heads", {1, 2}}}, 4), Error);
  EXPECT_THROW(one_layer("minference", {{"heads", nlohmann::json::parse(R"([[{}]])")}}, 4), Error);
  EXPECT_THROW(one_layer("minference", {{"heads", nlohmann::json::parse(R"([[{"colums": 3}, {}]])")}}, 2), Error);
}

}  // namespace
}  // namespace heed::cache::minference_test
