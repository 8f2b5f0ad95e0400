#include "heed/kernels/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/tensor.h"

namespace heed::testing::select_test {
namespace {

using namespace kernels;

struct Rng {
  std::mt19937_64& random;
  int64_t below(int64_t bound) const { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); }
};

/// Lists between guards, every element poisoned.
struct Lists {
  explicit Lists(const std::array<int64_t, 4>& size) : size_(size), indices_(elements() + 2 * kGuard, -77) {
    counts_.assign(size[0] * size[1] * size[2] + 2, -77);
  }
  IndexLists view() {
    return {{indices_.data() + kGuard, size_, dense_strides(size_)},
            {counts_.data() + 1, {size_[0], size_[1], size_[2], 1}, dense_strides({size_[0], size_[1], size_[2], 1})}};
  }
  std::vector<int32_t> row(int64_t index) const {
    const auto begin = indices_.begin() + kGuard + index * size_[3];
    return {begin, begin + counts_[index + 1]};
  }
  void check(const char* what) const {
    for (int64_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(indices_[i], -77) << what;
      ASSERT_EQ(indices_[indices_.size() - 1 - i], -77) << what;
    }
    ASSERT_EQ(counts_.front(), -77);
    ASSERT_EQ(counts_.back(), -77);
    for (size_t r = 1; r + 1 < counts_.size(); ++r) {
      ASSERT_GE(counts_[r], 0) << what;
      for (int64_t i = counts_[r]; i < size_[3]; ++i)
        ASSERT_EQ(indices_[kGuard + (static_cast<int64_t>(r) - 1) * size_[3] + i], -1) << what;
    }
  }
  bool operator==(const Lists& other) const { return indices_ == other.indices_ && counts_ == other.counts_; }

 private:
  static constexpr int64_t kGuard = 16;
  int64_t elements() const { return size_[0] * size_[1] * size_[2] * size_[3]; }
  std::array<int64_t, 4> size_;
  std::vector<int32_t> indices_;
  std::vector<int64_t> counts_;
};

/// Scores of every kind: spread, with many ties, in one binade, with NaN, infinities and both zeros.
struct Drawn {
  Drawn(Rng rng, bool weights) {
    const int64_t entries[] = {0, 1, 2, 17, 64, 1000, 5000};
    const std::array<int64_t, 4> size{1 + rng.below(2), 1 + rng.below(3), 1 + rng.below(3), entries[rng.below(7)]};
    scores = Tensor(DType::f32, size, rng.below(3) == 0 ? Layout::sliced : Layout::dense);
    std::normal_distribution<double> normal;
    const int64_t kind = rng.below(4);
    scores.fill([&]() -> double {
      const double special[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1e-40, -1e-40};
      // An infinite weight is a mass of its own: tried apart.
      if (kind == 3 && rng.below(4) == 0) return weights ? special[3 + rng.below(4)] : special[rng.below(7)];
      double x = normal(rng.random);
      if (kind == 1) x = std::round(4 * x) / 4;
      if (kind == 2) x = 2 + std::fabs(x) / 8;
      return weights ? x * x : x;
    });
    for (int64_t r = 0; r < size[0] * size[1] * size[2]; ++r) lengths.push_back(rng.below(size[3] + 1));
    rows = {scores.view().as<const float>(), nullptr, size[1] * size[2], size[2], 1};
    if (rng.below(2) == 0) rows.lengths = lengths.data();
  }
  int64_t length(int64_t row) const { return rows.lengths == nullptr ? scores.size()[3] : lengths[row]; }
  double value(int64_t row, int64_t i) const {
    const auto& size = scores.size();
    return scores.at(row / (size[1] * size[2]), row / size[2] % size[1], row % size[2], i);
  }
  Tensor scores;
  std::vector<int64_t> lengths;
  ScoreRows rows;
};

class SelectOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, SelectOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(SelectOnEveryIsa, TopKOfRandomRowsEqualsSorting) {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    HEED_SEED(random, seed);
    const Rng rng{random};
    const Drawn drawn(rng, false);
    const auto& size = drawn.scores.size();
    TopKParams p;
    p.scores = drawn.rows;
    p.k = rng.below(4) == 0 ? size[3] + rng.below(3) : rng.below(size[3] + 1);
    if (rng.below(2) == 0) p.first = rng.below(20), p.last = rng.below(20);
    const int64_t capacity = std::min(size[3], std::max(p.k, p.first + p.last)) + rng.below(3);
    Lists got({size[0], size[1], size[2], capacity}), want({size[0], size[1], size[2], capacity});
    p.lists = got.view();
    top_k(p);
    p.lists = want.view();
    reference::top_k(p);
    got.check("lists");
    ASSERT_TRUE(got == want);
  }
}

TEST(TopK, TiesGoToTheLowerIndexAndNanLiesBelowEverything) {
  const float nan = NAN, inf = INFINITY;
  const std::vector<float> row{1, nan, 2, 0, 2, -0.0f, 2, -inf, 1};
  TopKParams p;
  p.scores.values = {row.data(), {1, 1, 1, 9}, {9, 9, 9, 1}};
  const auto best = [&](int64_t k) {
    Lists lists({1, 1, 1, 9});
    p.k = k, p.lists = lists.view();
    top_k(p);
    lists.check("lists");
    return lists.row(0);
  };
  EXPECT_EQ(best(0), (std::vector<int32_t>{}));
  EXPECT_EQ(best(2), (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(best(4), (std::vector<int32_t>{0, 2, 4, 6}));
  EXPECT_EQ(best(6), (std::vector<int32_t>{0, 2, 3, 4, 6, 8}));
  EXPECT_EQ(best(7), (std::vector<int32_t>{0, 2, 3, 4, 5, 6, 8}));
  EXPECT_EQ(best(8), (std::vector<int32_t>{0, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(best(100), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  p.first = 2, p.last = 1;
  EXPECT_EQ(best(0), (std::vector<int32_t>{0, 1, 8}));
  EXPECT_EQ(best(4), (std::vector<int32_t>{0, 1, 2, 8}));
  p.first = 5, p.last = 7;
  EXPECT_EQ(best(1).size(), 9u);
}

// The property itself, checked in exact arithmetic: weights are small multiples of a power of two, and so are sums.
TEST(TopP, IsTheSmallestSetOfEnoughMass) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    HEED_SEED(random, seed);
    const Rng rng{random};
    const int64_t entries = 1 + rng.below(3000), range = 1 + rng.below(1000);
    std::vector<float> row;
    for (int64_t i = 0; i < entries; ++i) row.push_back(static_cast<float>(rng.below(range)) / 1024);
    TopPParams p;
    p.scores.values = {row.data(), {1, 1, 1, entries}, {entries, entries, entries, 1}};
    p.mass = static_cast<double>(rng.below(64)) / 64;
    if (rng.below(2) == 0) p.first = rng.below(4), p.last = rng.below(4);
    Lists lists({1, 1, 1, entries});
    p.lists = lists.view();
    top_p(p);
    lists.check("lists");
    const std::vector<int32_t> taken = lists.row(0);
    double total = 0, mass = 0;
    for (float weight : row) total += weight;
    for (int32_t i : taken) mass += row[i];
    EXPECT_GE(mass, p.mass * total);
    const std::set<int32_t> set(taken.begin(), taken.end());
    float least = INFINITY;
    const auto forced = [&](int64_t i) { return i < p.first || i >= entries - p.last; };
    for (int32_t i : taken) least = forced(i) ? least : std::min(least, row[i]);
    if (least != INFINITY) {
      EXPECT_LT(mass - least, p.mass * total);
    }
    for (int64_t i = 0; i < entries; ++i) {
      if (forced(i)) {
        EXPECT_TRUE(set.count(static_cast<int32_t>(i)));
      } else if (!set.count(static_cast<int32_t>(i))) {
        EXPECT_LE(row[i], least);
      }
    }
  }
}

TEST_P(SelectOnEveryIsa, TopPOfRandomRowsEqualsSorting) {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    HEED_SEED(random, seed);
    const Rng rng{random};
    const Drawn drawn(rng, true);
    const auto& size = drawn.scores.size();
    TopPParams p;
    p.scores = drawn.rows;
    const double masses[] = {0, 0.1, 0.5, 0.9, 0.999, 1, 2};
    p.mass = masses[rng.below(7)];
    if (rng.below(3) == 0) p.first = rng.below(5), p.last = rng.below(5);
    if (rng.below(3) == 0) p.least = rng.below(30);
    if (rng.below(3) == 0) p.most = p.least + rng.below(30);
    Lists got({size[0], size[1], size[2], size[3]}), want({size[0], size[1], size[2], size[3]});
    p.lists = got.view();
    top_p(p);
    p.lists = want.view();
    reference::top_p(p);
    got.check("lists");
    // Sums in two orders may disagree on one entry where they meet the mass exactly: no draw of these seeds does.
    ASSERT_TRUE(got == want);
  }
}

TEST(TopP, WholeRowsAndInfiniteWeights) {
  const float inf = INFINITY, nan = NAN;
  const std::vector<float> row{0, inf, 1, nan, inf, -3};
  TopPParams p;
  p.scores.values = {row.data(), {1, 1, 1, 6}, {6, 6, 6, 1}};
  const auto taken = [&](double mass) {
    Lists lists({1, 1, 1, 6});
    p.mass = mass, p.lists = lists.view();
    top_p(p);
    return lists.row(0);
  };
  EXPECT_EQ(taken(1), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(taken(0.5), (std::vector<int32_t>{1}));
  EXPECT_EQ(taken(0), (std::vector<int32_t>{}));
}

TEST(Pool, RandomRowsEqualTheReference) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    HEED_SEED(random, seed);
    const Rng rng{random};
    const Drawn drawn(rng, false);
    PoolParams p;
    p.in = drawn.rows;
    p.kind = static_cast<PoolParams::Kind>(rng.below(2)), p.edges = static_cast<PoolParams::Edges>(rng.below(2));
    p.width = 1 + 2 * rng.below(20);
    Tensor got(DType::f32, drawn.scores.size(), Layout::sliced), want(DType::f32, drawn.scores.size());
    p.out = got.view().as<float>();
    pool(p);
    p.out = want.view().as<float>();
    reference::pool(p);
    got.check_guards("pooled");
    // A sum of width floats, each rounded.
    EXPECT_LE(relative_error(got, want), std::ldexp(static_cast<double>(p.width), -23));
  }
}

TEST(Pool, EdgesAsInTheReleaseOrCorrected) {
  const std::vector<float> row{6, 6, 6, 6};
  std::vector<float> out(4);
  PoolParams p;
  p.in.values = {row.data(), {1, 1, 1, 4}, {4, 4, 4, 1}};
  p.out = {out.data(), {1, 1, 1, 4}, {4, 4, 4, 1}};
  p.width = 3;
  pool(p);
  EXPECT_EQ(out, (std::vector<float>{4, 6, 6, 4}));
  p.edges = PoolParams::Edges::corrected;
  pool(p);
  EXPECT_EQ(out, (std::vector<float>{6, 6, 6, 6}));
}

TEST(ReduceHeads, GroupsOfConsecutiveHeads) {
  const std::vector<float> scores{1, 2, 3, -4, 5, 6, NAN, 8};  // 4 heads of 2 slots
  std::vector<float> out(4);
  const View<const float> in{scores.data(), {1, 4, 1, 2}, {8, 2, 2, 1}};
  const View<float> to{out.data(), {1, 2, 1, 2}, {4, 2, 2, 1}};
  reduce_heads(in, HeadReduction::sum, to);
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 2), (std::vector<float>{4, -2}));
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(out[3], 14);
  reduce_heads(in, HeadReduction::mean, to);
  EXPECT_EQ(out[0], 2);
  reduce_heads(in, HeadReduction::max, to);
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 2), (std::vector<float>{3, 2}));
  EXPECT_TRUE(std::isnan(out[2]));
}

TEST(UniteHeads, RandomListsEqualSets) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    HEED_SEED(random, seed);
    const Rng rng{random};
    const int64_t batch = 1 + rng.below(2), heads = 1 + rng.below(2), group = 1 + rng.below(4), rows = 1 + rng.below(3),
                  width = rng.below(30);
    std::vector<int32_t> lists(batch * heads * group * rows * width);
    for (int32_t& i : lists) i = static_cast<int32_t>(rng.below(60)) - 5;
    const std::array<int64_t, 4> size{batch, heads * group, rows, width};
    Lists united({batch, heads, rows, 60});
    unite_heads({lists.data(), size, dense_strides(size)}, united.view());
    united.check("union");
    for (int64_t r = 0; r < batch * heads * rows; ++r) {
      std::set<int32_t> want;
      for (int64_t g = 0; g < group; ++g) {
        const int64_t from = ((r / rows) * group + g) * rows + r % rows;
        for (int64_t i = 0; i < width; ++i) {
          if (lists[from * width + i] >= 0) want.insert(lists[from * width + i]);
        }
      }
      EXPECT_EQ(united.row(r), std::vector<int32_t>(want.begin(), want.end()));
    }
  }
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing";
}

TEST(Select, BadInputIsNamed) {
  const std::vector<float> row(10);
  Lists lists({1, 1, 1, 4});
  TopKParams k;
  k.scores.values = {row.data(), {1, 1, 1, 10}, {10, 10, 10, 1}};
  k.lists = lists.view();
  k.k = 5;
  EXPECT_EQ(message_of([&] { top_k(k); }), "top_k: the lists are [1, 1, 1, 4]; [1, 1, 1, at least 5] is accepted");
  k.k = -1;
  EXPECT_EQ(message_of([&] { top_k(k); }), "top_k: k is -1; at least 0 is accepted");
  k.k = 2, k.first = INT64_MAX, k.last = INT64_MAX;
  EXPECT_EQ(message_of([&] { top_k(k); }), "top_k: the lists are [1, 1, 1, 4]; [1, 1, 1, at least 10] is accepted");
  k.first = k.last = 0;
  const int64_t length = 11;
  k.scores.lengths = &length;
  EXPECT_EQ(message_of([&] { top_k(k); }), "top_k: the length of row [0, 0, 0] is 11; 0 to 10 is accepted");
  k.scores.lengths = nullptr;
  k.scores.values.stride[3] = 2;
  EXPECT_EQ(message_of([&] { top_k(k); }), "top_k: the last dimension of the scores has stride 2; 1 is accepted");

  TopPParams p;
  p.scores.values = {row.data(), {1, 1, 1, 10}, {10, 10, 10, 1}};
  p.lists = lists.view();
  EXPECT_EQ(message_of([&] { top_p(p); }), "top_p: the lists are [1, 1, 1, 4]; [1, 1, 1, at least 10] is accepted");
  p.mass = NAN;
  EXPECT_EQ(message_of([&] { top_p(p); }), "top_p: the mass is nan; 0 to 1 is accepted");
  p.mass = 0.5, p.least = 5, p.most = 4;
  EXPECT_EQ(message_of([&] { top_p(p); }), "top_p: 5 to 4 entries are asked for; 0 <= least <= most is accepted");

  PoolParams pooled;
  pooled.in = p.scores;
  pooled.width = 4;
  EXPECT_EQ(message_of([&] { pool(pooled); }), "pool: the width is 4; odd numbers from 1 on are accepted");
  const std::vector<int32_t> many{1, 2, 3, 4, 5, 6};
  EXPECT_EQ(message_of([&] {
              unite_heads({many.data(), {1, 2, 1, 3}, {6, 3, 3, 1}}, lists.view());
            }),
            "unite_heads: the union of row [0, 0, 0] has 6 entries; lists of 4 hold it");
}

}  // namespace
}  // namespace heed::testing::select_test
