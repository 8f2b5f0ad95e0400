// Searches for keys: against the naive choice over all of them, and against their twins in double.
#include "heed/kernels/key_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/tensor.h"

namespace heed::testing::key_search_test {
namespace {

using namespace kernels;

struct Lists {
  explicit Lists(const std::array<int64_t, 4>& size)
      : size(size), indices(size[0] * size[1] * size[2] * size[3], -77), counts(size[0] * size[1] * size[2], -77) {}
  View<int32_t> view() { return {indices.data(), size, dense_strides(size)}; }
  View<int64_t> count_view() {
    const std::array<int64_t, 4> one{size[0], size[1], size[2], 1};
    return {counts.data(), one, dense_strides(one)};
  }
  std::vector<int32_t> row(int64_t index) const {
    const auto begin = indices.begin() + index * size[3];
    return {begin, std::find(begin, begin + size[3], -1)};
  }
  std::array<int64_t, 4> size;
  std::vector<int32_t> indices;
  std::vector<int64_t> counts;
};

struct SearchCase {
  Tensor q, k;
  std::vector<uint8_t> hidden;

  SearchCase(std::mt19937_64& random, int64_t queries, int64_t keys, int64_t d, Layout layout = Layout::dense)
      : q(DType::f32, {2, 4, queries, d}, layout), k(DType::f32, {2, 2, keys, d}, layout) {
    // Small whole numbers: float and double agree to the last bit, and there are ties.
    const auto draw = [&] { return static_cast<double>(static_cast<int64_t>(random() % 7) - 3); };
    q.fill(draw), k.fill(draw);
  }
  SearchedKeys searched() const {
    SearchedKeys keys;
    keys.q = q, keys.k = k;
    if (!hidden.empty()) keys.hidden = hidden.data(), keys.hidden_stride = k.size()[2];
    return keys;
  }
  double product(int64_t b, int64_t h, int64_t i, int64_t j) const {
    if (!hidden.empty() && hidden[b * k.size()[2] + j] != 0) return -INFINITY;
    double sum = 0;
    for (int64_t d = 0; d < q.size()[3]; ++d) sum += q.at(b, h, i, d) * k.at(b, h / 2, j, d);
    return sum;
  }
  void hide_some(std::mt19937_64& random) {
    hidden.resize(2 * k.size()[2]);
    for (auto& h : hidden) h = random() % 4 == 0;
  }
};

class SearchOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, SearchOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(SearchOnIsa, MatchesReference) {
  HEED_SEED(random, 20240613);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 24; ++round) {
    // Some blocks of queries take more vectors than are worked on together.
    const bool wide = round % 4 == 1;
    const int64_t queries = below(wide ? 160 : 40), keys = below(90);
    SearchCase c(random, queries, keys, 1 + below(70), layouts[round % 4]);
    if (round % 3 == 0) c.hide_some(random);
    if (round % 5 == 0) c.k.fill([&] { return below(300) == 0 ? NAN : static_cast<double>(below(7) - 3); });
    TreeSearchParams tree;
    tree.keys = c.searched();
    tree.query_block = 1 + below(wide ? 150 : 9), tree.key_block = 1 + below(5), tree.blocks = 1 + below(8);
    tree.row_stride = 1 + below(3);
    tree.representative = static_cast<Representative>(below(3));
    SCOPED_TRACE(
        fmt::format("N {} M {} blocks {}x{} of {}", queries, keys, tree.query_block, tree.key_block, tree.blocks));
    Lists fast({2, 4, (queries + tree.query_block - 1) / tree.query_block, tree.blocks}), slow = fast;
    tree.lists = fast.view(), tree.scored = fast.count_view();
    tree_search(tree);
    tree.lists = slow.view(), tree.scored = slow.count_view();
    reference::tree_search(tree);
    EXPECT_EQ(fast.indices, slow.indices);
    EXPECT_EQ(fast.counts, slow.counts);

    std::vector<int64_t> offsets;
    for (int64_t o = below(3); o < 100; o += 1 + below(9)) offsets.push_back(o);
    JumpSearchParams jump{c.searched(), offsets.data(), static_cast<int64_t>(offsets.size()), {}};
    Lists fast_anchors({2, 4, queries, 3}), slow_anchors = fast_anchors;
    jump.anchors = fast_anchors.view();
    jump_search(jump);
    jump.anchors = slow_anchors.view();
    reference::jump_search(jump);
    EXPECT_EQ(fast_anchors.indices, slow_anchors.indices);
  }
}

/// Blocks by their best product, best first, of equal ones the lower.
std::vector<int32_t> best_blocks(const SearchCase& c, const TreeSearchParams& p, int64_t b, int64_t h, int64_t block) {
  const int64_t queries = c.q.size()[2], first = block * p.query_block, end = std::min(queries, first + p.query_block),
                keys = end + c.k.size()[2] - queries;
  std::vector<std::pair<double, int32_t>> scores;
  for (int64_t j = 0; j * p.key_block < keys; ++j) {
    double best = -INFINITY;
    for (int64_t i = first; i < end; i += p.row_stride)
      for (int64_t key = j * p.key_block; key < std::min(keys, (j + 1) * p.key_block); ++key)
        best = std::max(best, c.product(b, h, i, key));
    scores.emplace_back(-best, static_cast<int32_t>(j));
  }
  std::sort(scores.begin(), scores.end());
  std::vector<int32_t> best;
  for (const auto& [score, j] : scores) best.push_back(j);
  return best;
}

TEST(TreeSearch, WithTheBestOfANodeItIsExact) {
  // At most as many nodes hold a block of the best as there are best blocks, so none of them is ever lost. Products of
  // normal numbers have no ties.
  HEED_SEED(random, 7);
  for (const int64_t keys : {1, 7, 64, 100, 131}) {
    const int64_t queries = std::min<int64_t>(keys, 37);
    SearchCase c(random, queries, keys, 12);
    c.q.normal(random), c.k.normal(random);
    TreeSearchParams p;
    p.keys = c.searched();
    p.query_block = 5, p.key_block = 3, p.blocks = 6, p.row_stride = 1;
    p.representative = Representative::whole;
    Lists lists({2, 4, (queries + 4) / 5, 6});
    p.lists = lists.view();
    tree_search(p);
    for (int64_t row = 0; row < lists.size[0] * lists.size[1] * lists.size[2]; ++row) {
      const int64_t blocks = lists.size[2];
      auto expected = best_blocks(c, p, row / blocks / 4, row / blocks % 4, row % blocks);
      if (expected.size() > 6) expected.resize(6);
      std::sort(expected.begin(), expected.end());
      EXPECT_EQ(lists.row(row), expected) << keys << " keys, row " << row;
    }
  }
}

TEST(TreeSearch, ScoresAreFewAndListsAreDistinctAndCausal) {
  HEED_SEED(random, 8);
  constexpr int64_t kQueries = 64, kKeys = 600;
  SearchCase c(random, kQueries, kKeys, 8);
  TreeSearchParams p;
  p.keys = c.searched();
  p.query_block = 16, p.key_block = 2, p.blocks = 10;
  Lists lists({2, 4, 4, 10});
  p.lists = lists.view(), p.scored = lists.count_view();
  tree_search(p);
  for (int64_t row = 0; row < 32; ++row) {
    const auto list = lists.row(row);
    const int64_t seen = kKeys - kQueries + 16 * (row % 4 + 1), blocks = seen / 2;
    EXPECT_EQ(list.size(), 10u);
    EXPECT_TRUE(std::is_sorted(list.begin(), list.end()));
    EXPECT_EQ(std::set<int32_t>(list.begin(), list.end()).size(), 10u);
    EXPECT_LT(list.back(), blocks);
    int64_t halvings = 0;
    while ((10 << halvings) < blocks) ++halvings;
    // The first half of a node has the score of the node.
    EXPECT_LE(lists.counts[row], 10 * (halvings + 1));
    EXPECT_GT(lists.counts[row], 0);
  }
  // More blocks than there are, and queries before the first key: everything, and nothing.
  Lists all({2, 4, 4, 400});
  p.lists = all.view(), p.scored = {}, p.blocks = 400;
  tree_search(p);
  EXPECT_EQ(all.row(0).size(), 276u);
  SearchCase early(random, 6, 2, 4);
  Lists few({2, 4, 3, 4});
  p.keys = early.searched(), p.query_block = 2, p.blocks = 4, p.lists = few.view();
  tree_search(p);
  EXPECT_TRUE(few.row(0).empty());
  EXPECT_TRUE(few.row(1).empty());
  EXPECT_EQ(few.row(2), std::vector<int32_t>{0});
}

TEST(TreeSearch, RunsThatScoreAlikeAreFoundExactly) {
  // Keys are constant inside the nodes that the search begins with.
  HEED_SEED(random, 9);
  constexpr int64_t kNodes = 8, kLength = 16, kKeys = kNodes * kLength;
  SearchCase c(random, 1, kKeys, 4);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t j = 0; j < kKeys; ++j)
        for (int64_t d = 0; d < 4; ++d) c.k.set(b, h, j, d, c.k.at(b, h, j / kLength * kLength, d));
  TreeSearchParams p;
  p.keys = c.searched();
  p.query_block = 1, p.key_block = 1, p.blocks = kNodes;
  Lists lists({2, 4, 1, kNodes});
  p.lists = lists.view();
  tree_search(p);
  for (int64_t row = 0; row < 8; ++row) {
    const auto best = best_blocks(c, p, row / 4, row % 4, 0);
    double found = 0, expected = 0;
    for (const int32_t j : lists.row(row)) found += c.product(row / 4, row % 4, 0, j);
    for (int64_t n = 0; n < kNodes; ++n) expected += c.product(row / 4, row % 4, 0, best[n]);
    EXPECT_EQ(found, expected);
  }
}

TEST(JumpSearch, ChoosesTheBestAnchors) {
  HEED_SEED(random, 10);
  SearchCase c(random, 20, 31, 6);
  c.hide_some(random);
  const std::vector<int64_t> offsets{0, 3, 8, 15, 24};
  Lists anchors({2, 4, 20, 2});
  jump_search({c.searched(), offsets.data(), 5, anchors.view()});
  for (int64_t row = 0; row < 160; ++row) {
    const int64_t b = row / 80, h = row / 20 % 4, i = row % 20, t = i + 11;
    std::vector<std::pair<double, int32_t>> scores;
    for (const int64_t o : offsets)
      if (o <= t && c.hidden[b * 31 + t - o] == 0)
        scores.emplace_back(-c.product(b, h, i, t - o), static_cast<int32_t>(t - o));
    std::sort(scores.begin(), scores.end());
    std::vector<int32_t> expected;
    for (size_t r = 0; r < std::min<size_t>(2, scores.size()); ++r) expected.push_back(scores[r].second);
    EXPECT_EQ(anchors.row(row), expected) << row;
  }
}

TEST(KeySearch, BadCallsAreNamed) {
  HEED_SEED(random, 11);
  SearchCase c(random, 8, 16, 4);
  Lists lists({2, 4, 2, 4});
  TreeSearchParams p;
  p.keys = c.searched();
  p.query_block = 4, p.blocks = 4, p.lists = lists.view();
  EXPECT_NO_THROW(check(p));
  for (const auto& spoil : std::vector<std::function<void(TreeSearchParams&)>>{
           [](auto& q) { q.key_block = 0; }, [](auto& q) { q.blocks = 0; }, [](auto& q) { q.row_stride = 0; },
           [](auto& q) { q.query_block = 3; }, [](auto& q) { q.blocks = 5; },
           [](auto& q) { q.keys.q.dtype = DType::f64; }, [](auto& q) { q.keys.k.size[1] = 3; },
           [](auto& q) { q.keys.k.size[3] = 3; }}) {
    auto bad = p;
    spoil(bad);
    EXPECT_THROW(tree_search(bad), Error);
  }
  const std::vector<int64_t> falling{3, 1};
  Lists anchors({2, 4, 8, 1});
  EXPECT_THROW(jump_search({c.searched(), falling.data(), 2, anchors.view()}), Error);
}

}  // namespace
}  // namespace heed::testing::key_search_test
