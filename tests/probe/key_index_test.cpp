// Search indices over keys: what they find, how much they scan, and the distance between queries and keys.
#include "heed/probe/key_index.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cache/small_model.h"
#include "heed/error.h"
#include "probe/key_searches.h"

namespace heed::probe::key_index_test {
namespace {

using torch::Tensor;

/// Keys, and queries that are distributed apart from them.
struct Apart {
  Tensor keys, queries, asked;

  static Apart make(int64_t count, int64_t dim, uint64_t seed) {
    torch::manual_seed(seed);
    const auto mean = torch::randn({dim});
    return {torch::randn({count, dim}) - mean, torch::randn({count, dim}) + mean, torch::randn({50, dim}) + mean};
  }
};

TEST(KeySearch, TheWidestFindsAllAndNarrowerOnesScanLess) {
  const auto apart = Apart::make(600, 16, 1);
  const auto best = std::get<1>(apart.asked.matmul(apart.keys.t()).topk(10, 1));
  std::vector<std::pair<std::string, std::unique_ptr<KeySearch>>> searches;
  searches.emplace_back("graph", graph_search(apart.queries, apart.keys));
  searches.emplace_back("hnsw", hnsw_search(apart.keys, 3));
  searches.emplace_back("ivf", ivf_search(apart.keys, 3));
  for (const auto& [name, search] : searches) {
    const auto widths = search->widths(10);
    ASSERT_GT(widths.size(), 3u) << name;
    const auto measure = [&](int64_t width) {
      int64_t right = 0, scanned = 0;
      for (int64_t i = 0; i < apart.asked.size(0); ++i) {
        const auto found = search->search(apart.asked[i].data_ptr<float>(), width, 10);
        EXPECT_LE(found.keys.size(), 10u) << name;
        for (const int64_t key : found.keys) right += best[i].eq(key).any().item<bool>();
        scanned += found.scanned;
      }
      return std::pair(right, scanned);
    };
    const auto narrow = measure(widths.front()), wide = measure(widths.back());
    EXPECT_LT(narrow.second, wide.second / 2) << name;
    EXPECT_LT(narrow.first, wide.first) << name;
    // HNSW by inner product need not reach every key.
    EXPECT_GE(wide.first, name == "hnsw" ? 475 : 500) << name;
  }
}

TEST(KeyIndices, QueriesBuildWhatScansLeast) {
  const auto apart = Apart::make(3000, 32, 2);
  const auto indices = key_indices(apart.queries, apart.keys, apart.asked, 20, 0.95);
  ASSERT_EQ(indices.size(), 4u);
  EXPECT_EQ(indices[0].name, "query graph");
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_LE(2 * indices[0].scanned, indices[i].scanned) << indices[i].name;
    EXPECT_LE(indices[i].scanned, 1) << indices[i].name;
  }
  for (const auto& index : indices) EXPECT_GT(index.build_seconds, 0) << index.name;
}

TEST(Mahalanobis, IsTheNormOfWhitenedVectors) {
  torch::manual_seed(4);
  const auto mixing = torch::randn({8, 8}, torch::kFloat64);
  const auto keys = torch::randn({20000, 8}, torch::kFloat64).matmul(mixing) + 3;
  const auto other = torch::randn({5000, 8}, torch::kFloat64);
  // The mean length of a standard normal vector of 8 is sqrt(2) Gamma(4.5) / Gamma(4) = 2.7419.
  const double expected = std::sqrt(2.0) * std::tgamma(4.5) / std::tgamma(4.0);
  EXPECT_NEAR(mahalanobis(other.matmul(mixing) + 3, keys), expected, 0.03);
  const auto shift = torch::zeros({8}, torch::kFloat64);
  shift[0] = 10;
  EXPECT_GT(mahalanobis((other + shift).matmul(mixing) + 3, keys), 10);
  EXPECT_TRUE(std::isfinite(mahalanobis(torch::ones({3, 4}), torch::ones({9, 4}) + torch::randn({9, 1}))));
}

TEST(CompareKeyIndices, LooksAtEveryLayerAndRefusesWhatIsTooShort) {
  auto model = testing::small_decoder(4, 2, 2);
  KeyIndexOptions options;
  options.ask = 8;
  options.top = 5;
  const auto tokens = testing::random_tokens(1, 200, 5);
  const auto reports = compare_key_indices(model, tokens, options);
  ASSERT_EQ(reports.size(), 2u);
  for (const auto& report : reports) {
    EXPECT_EQ(report.keys, 200 - 8 - 4);
    ASSERT_EQ(report.indices.size(), 4u);
    for (const auto& index : report.indices) EXPECT_TRUE(index.scanned > 0 && index.scanned <= 1) << index.name;
    EXPECT_GT(report.query_distance, 0);
    EXPECT_GT(report.key_distance, 0);
  }
  EXPECT_THROW(compare_key_indices(model, tokens.narrow(1, 0, 40), options), Error);
  options.layers = {2};
  EXPECT_THROW(compare_key_indices(model, tokens, options), Error);
}

}  // namespace
}  // namespace heed::probe::key_index_test
